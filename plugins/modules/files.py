#!/usr/bin/python
"""Many small text files and folders in one execution."""

from __future__ import annotations

DOCUMENTATION = r"""
module: files
short_description: Many small files and folders in one execution
description:
  - Makes files equal to the content given, and both files and folders belong to whom they shall.
  - Does in one execution on the host what a loop over M(ansible.builtin.copy) or M(ansible.builtin.file) does in one
    for each item.
  - A file is replaced as a whole, never seen half written.
  - In a diff, what looks like a password, token or key is hidden where not everybody may read the file.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes
options:
  files:
    description: Files and folders, folders before what lies in them.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path. Folders above it are made as needed.
        type: path
        required: true
      content:
        description: The text. O(files[].state=present) requires this or O(files[].base64), and nothing else takes them.
        type: str
      base64:
        description:
          - The content of a file that is no text, in base64, as P(gpuhub.platform.local_file#filter) returns it.
        type: str
      mode:
        description: Permissions in octal. By default V(0644) of a file, V(0755) of a folder.
        type: str
      owner:
        description: Name or number of the user it belongs to. By default that stays; new ones belong to who makes them.
        type: str
      group:
        description: Name or number of the group it belongs to. By default that stays, as with O(files[].owner).
        type: str
      state:
        description: V(present) is a file, V(directory) a folder. V(absent) removes a file.
        type: str
        choices: [present, directory, absent]
        default: present
"""

EXAMPLES = r"""
- name: Image mirrors lead to the registry on the head
  gpuhub.platform.files:
    files:
      - path: /var/snap/microk8s/current/args/certs.d/quay.io/hosts.toml
        content: "{{ mirrors['quay.io'] }}"

- name: Folders of the registry are its own
  gpuhub.platform.files:
    files:
      - {path: /var/lib/gpuhub/registry, state: directory, mode: "0700"}
      - {path: /var/lib/gpuhub/registry/data, state: directory, mode: "0700", owner: "65532", group: "65532"}
"""

RETURN = r"""
written:
  description: Paths of the files and folders that were different or missing.
  type: list
  elements: str
  returned: always
removed:
  description: Paths of the files that were there and should not be.
  type: list
  elements: str
  returned: always
"""

import base64
import grp
import hashlib
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.atomic_file import replacement
from ..module_utils.redaction import redact

KINDS = {"present": "file", "directory": "directory", "absent": "absent"}
MODES = {"present": "0644", "directory": "0755", "absent": "0"}


class FilesError(Exception):
    """What is asked for makes no sense on this host."""


@dataclass(frozen=True)
class State:
    """What is at a path: kind is file, directory or absent; the content is that of a file."""

    kind: str
    mode: int = 0
    user: int = 0
    group: int = 0
    content: bytes = b""

    def __str__(self) -> str:
        return self.kind if self.kind == "absent" else f"{self.kind} {self.mode:04o} {self.user}:{self.group}"


def look(path: Path) -> State:
    """What is at `path`, symbolic links followed. Raises FilesError for what is neither file nor folder."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return State("absent", user=os.geteuid(), group=os.getegid())
    mode = stat.S_IMODE(found.st_mode)
    if path.is_dir():
        return State("directory", mode, found.st_uid, found.st_gid)
    if path.is_file():
        return State("file", mode, found.st_uid, found.st_gid, path.read_bytes())
    raise FilesError(f"{path}: it is there, and is neither a file nor a folder")


def want(item: dict[str, Any], before: State) -> State:
    """What shall be there instead of `before`. Raises FilesError."""
    path, state = item["path"], item["state"]
    if [item["content"], item["base64"]].count(None) != (1 if state == "present" else 2):
        raise FilesError(
            f"{path}: a file that shall be present needs either content or base64, and nothing else takes them"
        )
    if before.kind not in ("absent", KINDS[state]) and not (state == "absent" and before.kind == "file"):
        raise FilesError(f"{path}: it is a {before.kind}; remove it if it is not needed")
    if state == "absent":
        return before if before.kind == "absent" else State("absent")
    try:
        mode = int(item["mode"] or MODES[state], 8)
        user = number(item["owner"], before.user, lambda name: pwd.getpwnam(name).pw_uid)
        group = number(item["group"], before.group, lambda name: grp.getgrnam(name).gr_gid)
    except (KeyError, ValueError) as error:
        raise FilesError(f"{path}: mode, owner or group: {error}") from error
    try:
        content = (item["content"] or "").encode() if item["base64"] is None else base64.b64decode(item["base64"])
    except ValueError as error:
        raise FilesError(f"{path}: base64: {error}") from error
    return State(KINDS[state], mode, user, group, content)


def number(name: str | None, default: int, find: Any) -> int:
    """Id of a user or group given as a number or a name."""
    if name is None:
        return default
    return int(name) if name.isdigit() else find(name)


def make(path: Path, wanted: State) -> None:
    """Make what is at `path` equal to what is wanted."""
    if wanted.kind == "absent":
        path.unlink()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if wanted.kind == "file":
        with replacement(path, wanted.mode, (wanted.user, wanted.group)) as stream:
            stream.write(wanted.content)
        return
    path.mkdir(mode=0o700, exist_ok=True)
    os.chown(path, wanted.user, wanted.group)
    path.chmod(wanted.mode)


def difference(path: Path, before: State, after: State) -> dict[str, str]:
    """A change as Ansible shows it: of the content, or where that is the same of what else there is.

    Of a file that not everybody may read, what looks like a secret is not shown.
    """
    texts = [printable(before.content), printable(after.content)]
    if before.content == after.content:
        texts = [f"{before}\n", f"{after}\n"]
    elif any(state.kind == "file" and not state.mode & 0o004 for state in (before, after)):
        texts = [redact(text) for text in texts]
    return {"before_header": str(path), "after_header": str(path), "before": texts[0], "after": texts[1]}


def printable(content: bytes) -> str:
    """Content as a diff shows it; of what is no text only its SHA-256."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return f"binary content, sha256 {hashlib.sha256(content).hexdigest()}\n"


def main() -> None:
    """Look at everything, then change what differs."""
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str"},
                    "base64": {"type": "str"},
                    "mode": {"type": "str"},
                    "owner": {"type": "str"},
                    "group": {"type": "str"},
                    "state": {"type": "str", "choices": ["present", "directory", "absent"], "default": "present"},
                },
            },
        },
        supports_check_mode=True,
    )
    try:
        found = [(Path(item["path"]), look(Path(item["path"])), item) for item in module.params["files"]]
        changes = [(path, before, want(item, before)) for path, before, item in found]
        changes = [change for change in changes if change[1] != change[2]]
        if not module.check_mode:
            for path, _before, after in changes:
                make(path, after)
    except (FilesError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(changes),
        written=[str(path) for path, _before, after in changes if after.kind != "absent"],
        removed=[str(path) for path, _before, after in changes if after.kind == "absent"],
        diff=[difference(*change) for change in changes],
    )


if __name__ == "__main__":
    main()
