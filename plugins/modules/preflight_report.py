#!/usr/bin/python
"""One report on all hosts."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight_report
short_description: One report on all hosts before anything changes
description:
  - Puts together what M(gpuhub.platform.preflight) found on each host, compares the hosts with each other and looks at
    the groups of the inventory.
  - Does not fail itself, so that the table is shown once. RV(fit) says whether to go on.
  - Runs on the control node.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes.read_only
options:
  results:
    description:
      - What the module returned by host. The result of a host that could not be reached, or on which the module failed,
        is reported as such.
    type: dict
    required: true
  groups:
    description: Groups of the inventory with their hosts.
    type: dict
    required: true
  shared_path:
    description: Folder on the shared storage. Empty if there is none.
    type: str
    default: ""
  tls:
    description: Whether users log in by HTTPS.
    type: bool
    default: false
  max_clock_skew:
    description: Seconds by which clocks may differ.
    type: float
    default: 30
  accept:
    description: Names of checks whose errors shall not stop.
    type: list
    elements: str
    default: []
  path:
    description: File on the control node that the report is written to as JSON. Written in check mode too.
    type: path
"""

EXAMPLES = r"""
- name: Every problem is named at once
  gpuhub.platform.preflight_report:
    results: "{{ dict(ansible_play_hosts_all | zip(ansible_play_hosts_all | map('extract', hostvars, 'looked'))) }}"
    groups: "{{ groups }}"
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
fit:
  description: Whether there is no error but accepted ones.
  type: bool
  returned: always
summary:
  description: How many errors and warnings there are, in one line.
  type: str
  returned: always
table:
  description: Errors and warnings in words.
  type: str
  returned: always
everything:
  description: The table with what is only worth knowing.
  type: str
  returned: always
worth_saying:
  description: Whether there is an error or a warning.
  type: bool
  returned: always
"""

import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import preflight_cluster as cluster
from ..module_utils import preflight_report
from ..module_utils.atomic_file import write_text
from ..module_utils.preflight_findings import from_dict


def seen(result: dict[str, Any]) -> cluster.Seen:
    """What came of looking at a host, from the module's result or Ansible's word on why there is none."""
    if "facts" not in result:
        # What Ansible puts before its own messages says nothing here.
        message = str(result.get("msg") or "").strip().replace("Task failed: ", "", 1)
        if result.get("unreachable"):
            return cluster.Seen(None, unreachable=message)
        details = [str(result.get(key) or "").strip() for key in ("module_stderr", "module_stdout")]
        return cluster.Seen(None, failed=" ".join(part for part in [message, *details] if part)[:500])
    findings = tuple(from_dict(found) for found in result["findings"])
    least, most = result["offset"]
    return cluster.Seen(result["facts"], findings, (float(least), float(most)))


def main() -> None:
    """Compare and report."""
    module = AnsibleModule(
        argument_spec={
            "results": {"type": "dict", "required": True},
            "groups": {"type": "dict", "required": True},
            "shared_path": {"type": "str", "default": ""},
            "tls": {"type": "bool", "default": False},
            "max_clock_skew": {"type": "float", "default": 30},
            "accept": {"type": "list", "elements": "str", "default": []},
            "path": {"type": "path"},
        },
        supports_check_mode=True,
    )
    params = module.params
    hosts = {host: seen(result) for host, result in params["results"].items()}
    head = next(iter(params["groups"].get("head") or []), "")
    findings = [
        *cluster.check_inventory(params["groups"], params["tls"]),
        *cluster.check_accepted(params["accept"]),
        *cluster.check_cluster(hosts, head, params["shared_path"], params["max_clock_skew"]),
    ]
    report = preflight_report.make_report(findings, params["accept"], len(hosts))
    if params["path"]:
        document = json.dumps(preflight_report.as_json(report, hosts), indent=2) + "\n"
        try:
            write_text(Path(params["path"]).absolute(), document, 0o644)
        except OSError as error:
            module.fail_json(msg=f"preflight_report: {params['path']} cannot be written: {error.strerror}")
    serious = preflight_report.text(report, ("error", "warning", "accepted"))
    module.exit_json(
        changed=False,
        fit=not report.stops,
        summary=report.summary,
        table=serious,
        everything=preflight_report.text(report, ("error", "warning", "accepted", "info")),
        worth_saying="\n" in serious,
    )


if __name__ == "__main__":
    main()
