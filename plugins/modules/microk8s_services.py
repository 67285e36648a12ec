#!/usr/bin/python
"""MicroK8s' services running with the arguments they should have."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microk8s_services
short_description: MicroK8s' services run with the arguments they should have
description:
  - Makes the files below C(/var/snap/microk8s/current/args) hold the arguments given. What is no longer given becomes
    what it was before.
  - Every other line is compared with a record that the module made when the host was configured, so that a line
    that was edited by hand is found and repaired too. An update or a join writes the files
    anew, and then so is the record.
  - Restarts a service that has been running since before its file changed, also when an earlier run was killed
    between the two, and starts one that does not run.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes
options:
  arguments:
    description: For each file below C(args/), flags and their values. V(null) removes a flag.
    type: dict
    default: {}
  role:
    description: What the host is in the cluster, which says what services it has.
    type: str
    choices: [head, worker]
    required: true
  record:
    description: File on the host that keeps the record.
    type: path
    default: /var/lib/gpuhub/microk8s-arguments.json
"""

EXAMPLES = r"""
- name: MicroK8s runs with our arguments
  gpuhub.platform.microk8s_services:
    role: head
    arguments:
      kube-apiserver: {--authorization-mode: "RBAC,Node"}
"""

RETURN = r"""
edited:
  description: Names of the files that were different.
  type: list
  elements: str
  returned: always
restarted:
  description: Units that were restarted or started.
  type: list
  elements: str
  returned: always
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import microk8s
from ..module_utils.atomic_file import write_text
from ..module_utils.redaction import hide_url_passwords

ARGS = Path(microk8s.SNAP_DATA, "args")


def occasion() -> list[str]:
    """What a record belongs to: an update or a join writes the files anew, and then it is void."""
    joined = Path(microk8s.SNAP_DATA, "var/lock/clustered.lock").exists()
    return [Path("/snap/microk8s/current").resolve().name, "joined" if joined else "alone"]


def read_record(path: Path) -> dict[str, Any]:
    """What the module knew at its last run.

    `files`, name -> text; `replaced`, name -> what the arguments given took the place of; `running`, unit -> what it
    was started with. All are empty when there is no record for this occasion.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["occasion"] == occasion():
            # Earlier versions did not know what they replaced.
            return {"replaced": record.get("replaced", {}), "files": record["files"], "running": record["running"]}
    except (OSError, ValueError, KeyError):
        pass
    return {"files": {}, "replaced": {}, "running": {}}


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Keep the record; a killed write leaves the old one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_text(path, json.dumps({"occasion": occasion(), **record}), 0o600)


class Started(NamedTuple):
    """A start of a unit: systemd's identifier of it, and when it was, in seconds since the epoch."""

    invocation: str
    since: float


def started(module: AnsibleModule, unit: str) -> Started | None:
    """The start that a unit is running from; None when it does not run."""
    show = ["systemctl", "show", unit, "--property=ActiveState,ActiveEnterTimestampMonotonic,InvocationID"]
    _code, out, _err = module.run_command(show)
    values = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
    if values.get("ActiveState") not in ("active", "activating", "reloading"):
        return None
    age = time.clock_gettime(time.CLOCK_MONOTONIC) - int(values.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
    return Started(values.get("InvocationID", ""), time.time() - age)


def arguments_of(unit: str) -> list[Path]:
    """The arguments files that a unit reads when it starts, as far as they are there."""
    paths = (ARGS / name for name, owner in microk8s.UNIT_OF_ARGUMENTS.items() if owner == unit)
    return [path for path in paths if path.exists()]


def digest(paths: list[Path]) -> str:
    """A hash of the files' content."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()


def is_current(unit: str, start: Started, known: list[str] | None) -> bool:
    """Whether a unit was started with its files as they are.

    `known` is the record of a start and of the content at that time. MicroK8s itself writes files anew with the same
    content, so their times alone tell only of a start that is not the recorded one.
    """
    paths = arguments_of(unit)
    if known and known[0] == start.invocation:
        return known[1] == digest(paths)
    return all(path.stat().st_mtime <= start.since for path in paths)


def main() -> None:
    """Compare the files, then write, then restart what runs with older ones."""
    module = AnsibleModule(
        argument_spec={
            "arguments": {"type": "dict", "default": {}},
            "role": {"type": "str", "choices": ["head", "worker"], "required": True},
            "record": {"type": "path", "default": "/var/lib/gpuhub/microk8s-arguments.json"},
        },
        supports_check_mode=True,
    )
    if not ARGS.is_dir():
        module.fail_json(msg=f"{ARGS} is not there: MicroK8s is not installed on this host")
    record_path = Path(module.params["record"])
    record = read_record(record_path)
    files: dict[str, str] = {}
    replaced: dict[str, dict[str, str | None]] = {}
    edited, diff = [], []
    for name in microk8s.UNIT_OF_ARGUMENTS:
        path = ARGS / name
        live = path.read_text(encoding="utf-8") if path.exists() else ""
        wanted = module.params["arguments"].get(name, {})
        wanted = {flag: None if value is None else str(value) for flag, value in wanted.items()}
        known = record["files"].get(name, live)
        text, replaced[name] = microk8s.settle(known, wanted, record["replaced"].get(name, {}))
        files[name] = text
        if text != live:
            edited.append(name)
            shown = {"before": hide_url_passwords(live), "after": hide_url_passwords(text)}
            diff.append({"before_header": str(path), "after_header": str(path), **shown})
            if not module.check_mode:
                # As MicroK8s keeps them: containerd's environment may hold a proxy's password.
                write_text(path, text, path.stat().st_mode & 0o770 if path.exists() else 0o660)

    units = microk8s.HEAD_UNITS if module.params["role"] == "head" else microk8s.WORKER_UNITS
    outdated = {microk8s.UNIT_OF_ARGUMENTS[name] for name in edited}
    restart: list[str] = []
    for unit in units:
        start = started(module, unit)
        if unit in outdated or start is None or not is_current(unit, start, record["running"].get(unit)):
            restart.append(unit)
    if restart:
        diff.append({"before": "", "after": "".join(f"{unit} restarted\n" for unit in restart)})
    if not module.check_mode:
        if restart:
            code, _out, err = module.run_command(["systemctl", "restart", *restart])
            if code:
                module.fail_json(
                    msg=f"systemctl restart {' '.join(restart)} failed: {err.strip()}; see 'journalctl -u UNIT' of "
                    "each on this host",
                    edited=edited,
                )
        starts = {unit: started(module, unit) for unit in units}
        running = {unit: [s.invocation, digest(arguments_of(unit))] for unit, s in starts.items() if s}
        new = {"files": files, "replaced": replaced, "running": running}
        if new != record:
            write_record(record_path, new)
    module.exit_json(changed=bool(edited or restart), edited=edited, restarted=restart, diff=diff)


if __name__ == "__main__":
    main()
