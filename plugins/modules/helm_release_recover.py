#!/usr/bin/python
"""Clear away what an interrupted Helm has left."""

from __future__ import annotations

DOCUMENTATION = r"""
module: helm_release_recover
short_description: Clear away what an interrupted or failed Helm has left
description:
  - A Helm that is killed leaves a revision that is pending for ever, and refuses to work on the release from then on.
    A revision that failed looks to M(kubernetes.core.helm) like one that was deployed.
  - Removes the records of such revisions from the end of the release's history. Objects in the cluster stay as they
    are; the next deployment takes them over, because they carry the release's name.
  - Says whether the revision that is left is what is wanted, so that Helm need not be asked.
  - Waits first for a Helm on this host that is still at work on the release, as one that outlived its Ansible.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes
  - gpuhub.platform.kube
options:
  name:
    description: Name of the release.
    type: str
    required: true
  namespace:
    description: Namespace of the release.
    type: str
    required: true
  chart_version:
    description: The version of the chart that is wanted.
    type: str
    required: true
  values_file:
    description: A file on the target host with the values that are wanted, as JSON. It need not be there yet.
    type: path
    required: true
  timeout:
    description: Seconds to wait for a Helm that is still at work.
    type: int
    default: 300
"""

EXAMPLES = r"""
- name: An interrupted deployment is cleared away
  gpuhub.platform.helm_release_recover:
    name: jupyterhub
    namespace: jhub
    chart_version: 4.4.0
    values_file: /var/lib/gpuhub/values/jupyterhub.json
"""

RETURN = r"""
status:
  description: Status of the newest revision that is left, empty if there is none.
  type: str
  returned: always
  sample: deployed
current:
  description: Whether the newest revision is a deployed one of the chart and the values that are wanted.
  type: bool
  returned: always
removed:
  description: The revisions whose records were removed.
  type: list
  elements: str
  returned: always
  sample: [revision 3 (pending-upgrade)]
"""

import json
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import kube_client as kube
from ..module_utils.helm_release import helm_at_work, is_of, newest_release, split_history


def running(name: str, processes: Path = Path("/proc")) -> list[int]:
    """Return the process ids of Helms that change release `name` on this host."""
    found = []
    for entry in processes.glob("[0-9]*/cmdline"):
        try:
            arguments = entry.read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended meanwhile
        if helm_at_work([part.decode(errors="replace") for part in arguments], name):
            found.append(int(entry.parent.name))
    return found


def wanted_values(file: Path) -> dict[str, Any] | None:
    """Return the values of a file; None if it is not there, or holds none."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def main() -> None:
    """Wait, look, remove."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "namespace": {"type": "str", "required": True},
            "chart_version": {"type": "str", "required": True},
            "values_file": {"type": "path", "required": True},
            "timeout": {"type": "int", "default": 300},
            **kube.ARGUMENT_SPEC,
        },
        supports_check_mode=True,
    )
    name, namespace = module.params["name"], module.params["namespace"]
    cluster = kube.connect(module)
    deadline = time.monotonic() + module.params["timeout"]
    while not module.check_mode and running(name):
        if time.monotonic() > deadline:
            module.fail_json(
                msg=f"helm is still at work on release {name} after {module.params['timeout']} s: process "
                f"{', '.join(map(str, running(name)))} on this host. Wait for it, or end it, and run this again."
            )
        time.sleep(1)
    values = wanted_values(Path(module.params["values_file"]))
    try:
        records = cluster.list("v1", "Secret", namespace=namespace, label_selector=f"owner=helm,name={name}")
        unfinished, status = split_history(records)
        current = (
            status == "deployed"
            and not unfinished
            and values is not None
            and is_of(newest_release(records), module.params["chart_version"], values)
        )
        for record in unfinished:
            if not module.check_mode:
                cluster.delete(record)
    except Exception as error:
        module.fail_json(msg=f"release {name} in namespace {namespace}: {kube.explain(error)}")
    removed = [
        f"revision {item['metadata']['labels']['version']} ({item['metadata']['labels']['status']})"
        for item in unfinished
    ]
    module.exit_json(
        changed=bool(unfinished),
        status=status,
        current=current,
        removed=removed,
        diff={"before": "".join(f"{line}\n" for line in removed), "after": ""},
    )


if __name__ == "__main__":
    main()
