#!/usr/bin/python
"""Snaps installed from files with their assertions."""

from __future__ import annotations

DOCUMENTATION = r"""
module: offline_snaps
short_description: Install snaps from files with their assertions
description:
  - Acknowledges the assertions and installs the files, in the order given, as C(snap download) wrote them.
  - A snap that is installed is left as it is. Updates are another module's work.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes
options:
  snaps:
    description: Snaps in the order of their installation, the bases first.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the snap.
        type: str
        required: true
      file:
        description: The C(.snap) file on the host. Needs to be there only while the snap is not installed.
        type: path
        required: true
      assertion:
        description: The C(.assert) file on the host.
        type: path
        required: true
      classic:
        description: Whether the snap is confined classically.
        type: bool
        default: false
  timeout:
    description: Seconds to wait while snapd still works on one of the snaps, as after a run that was killed.
    type: int
    default: 600
"""

EXAMPLES = r"""
- name: MicroK8s is installed
  gpuhub.platform.offline_snaps:
    snaps:
      - {name: core22, file: /tmp/core22.snap, assertion: /tmp/core22.assert}
      - {name: microk8s, file: /tmp/microk8s.snap, assertion: /tmp/microk8s.assert, classic: true}
"""

RETURN = r"""
installed:
  description: Names of the snaps that were installed.
  type: list
  elements: str
  returned: always
"""

import time

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.microk8s import parse_snap_list


def run(module: AnsibleModule, command: list[str]) -> None:
    """Run a command of snap, again while snapd still works on what a killed run has asked it for."""
    deadline = time.monotonic() + module.params["timeout"]
    while True:
        code, out, err = module.run_command(command)
        if not code:
            return
        if time.monotonic() > deadline or "change in progress" not in err:
            module.fail_json(
                msg=f"'{' '.join(command)}' failed (exit code {code}): {err.strip() or out.strip()}; "
                "see 'snap changes' and 'journalctl -u snapd' on this host"
            )
        time.sleep(1)


def main() -> None:
    """Install what is not listed."""
    module = AnsibleModule(
        argument_spec={
            "snaps": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "file": {"type": "path", "required": True},
                    "assertion": {"type": "path", "required": True},
                    "classic": {"type": "bool", "default": False},
                },
            },
            "timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    snap = module.get_bin_path("snap", required=True)
    _code, listing, _err = module.run_command([snap, "list"])
    present = parse_snap_list(listing)
    missing = [item for item in module.params["snaps"] if item["name"] not in present]
    names = [item["name"] for item in missing]
    if missing and not module.check_mode:
        for item in missing:
            run(module, [snap, "ack", item["assertion"]])
            run(module, [snap, "install", *(["--classic"] if item["classic"] else []), item["file"]])
    module.exit_json(
        changed=bool(missing),
        installed=names,
        diff={"before": "", "after": "".join(f"snap {name} installed\n" for name in names)},
    )


if __name__ == "__main__":
    main()
