#!/usr/bin/python
"""Many small text files in one execution."""

from __future__ import annotations

DOCUMENTATION = r"""
module: files
short_description: Many small text files in one execution
description:
  - Makes text files equal to the content given, with their owner's group untouched and their mode as given.
  - Does in one execution on the host what a loop over M(ansible.builtin.copy) does in one for each file.
  - A file is replaced as a whole, never seen half written.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes
options:
  files:
    description: The files.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path. Folders above it are made as needed.
        type: path
        required: true
      content:
        description: The text. Not given with O(files[].state=absent).
        type: str
      mode:
        description: Permissions in octal.
        type: str
        default: "0644"
      state:
        description: V(absent) removes the file.
        type: str
        choices: [present, absent]
        default: present
"""

EXAMPLES = r"""
- name: Image mirrors lead to the registry on the head
  gpuhub.platform.files:
    files:
      - path: /var/snap/microk8s/current/args/certs.d/quay.io/hosts.toml
        content: "{{ mirrors['quay.io'] }}"
"""

RETURN = r"""
written:
  description: Paths of the files that were different or missing.
  type: list
  elements: str
  returned: always
removed:
  description: Paths of the files that were there and should not be.
  type: list
  elements: str
  returned: always
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.atomic_file import write_text


def current(path: Path) -> str | None:
    """The text of a file, or None if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def main() -> None:
    """Compare each file, then write those that differ."""
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str"},
                    "mode": {"type": "str", "default": "0644"},
                    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
                },
            },
        },
        supports_check_mode=True,
    )
    written, removed, diff = [], [], []
    for item in module.params["files"]:
        path, mode = Path(item["path"]), int(item["mode"], 8)
        before, after = current(path), item["content"] if item["state"] == "present" else None
        if item["state"] == "present" and after is None:
            module.fail_json(msg=f"{path}: a file that shall be present needs content")
        if after is None:
            if before is None:
                continue
            removed.append(str(path))
            if not module.check_mode:
                path.unlink()
        elif before != after or path.stat().st_mode & 0o7777 != mode:
            written.append(str(path))
            if not module.check_mode:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, after, mode)
        else:
            continue
        diff.append(
            {"before_header": str(path), "after_header": str(path), "before": before or "", "after": after or ""}
        )
    module.exit_json(changed=bool(written or removed), written=written, removed=removed, diff=diff)


if __name__ == "__main__":
    main()
