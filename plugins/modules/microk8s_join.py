#!/usr/bin/python
"""A worker joined to a MicroK8s cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microk8s_join
short_description: Join a host to a MicroK8s cluster as a worker
description:
  - Runs C(microk8s join --worker) unless the host has joined already.
  - Waits for a join that a killed run has left at work, and does again one that was itself killed.
  - That the node is registered and Ready is to be verified on the head, by M(gpuhub.platform.kube_ready).
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes
options:
  head:
    description: Address of the head.
    type: str
    required: true
  invitation:
    description:
      - What C(microk8s add-node --format json) printed on the head. Not needed where the host has joined already.
    type: str
  timeout:
    description: Seconds to wait for another join on this host, such as one of a run that was killed.
    type: int
    default: 300
"""

EXAMPLES = r"""
- name: The worker has joined
  gpuhub.platform.microk8s_join:
    head: 10.0.0.11
    invitation: "{{ hostvars['head'].add_node.stdout }}"
"""

RETURN = r"""
heads:
  description: API servers that the worker talks to.
  type: list
  elements: str
  returned: always
"""

import re
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import microk8s

LOCKS = Path(microk8s.SNAP_DATA, "var/lock")


def heads() -> list[str]:
    """The API servers of the cluster that this worker has joined."""
    provider = Path(microk8s.SNAP_DATA, "args/traefik/provider.yaml")
    return microk8s.parse_worker_heads(provider.read_text(encoding="utf-8")) if provider.exists() else []


def wait_for_other_join(module: AnsibleModule) -> None:
    """Wait until no join is at work, such as one that has lost its Ansible: two at once would write the same files."""
    at_work = ["pgrep", "-f", r"microk8s[- ]join|scripts/(cluster|wrappers)/join"]
    deadline = time.monotonic() + module.params["timeout"]
    while module.run_command(at_work)[0] == 0:
        if time.monotonic() > deadline:
            module.fail_json(
                msg=f"another 'microk8s join' is still at work on this host after {module.params['timeout']} s; "
                "wait for it, or end it, and run this again"
            )
        time.sleep(1)


def main() -> None:
    """Join once."""
    module = AnsibleModule(
        argument_spec={
            "head": {"type": "str", "required": True},
            # It holds the token that lets a host into the cluster.
            "invitation": {"type": "str", "no_log": True},
            "timeout": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    head = module.params["head"]
    if not module.check_mode:
        wait_for_other_join(module)
    if microk8s.has_joined(LOCKS):
        addresses = [re.sub(r":\d+$", "", address) for address in heads()]
        if addresses and head not in addresses:
            module.fail_json(
                msg=f"this host is a worker of another cluster ({', '.join(addresses)}), not of {head}: "
                "take it out there first (microk8s leave), or name the right head in the inventory"
            )
        module.exit_json(changed=False, heads=heads())
    if not module.check_mode:
        if not module.params["invitation"]:
            module.fail_json(msg="the host has not joined yet: 'invitation' is needed (microk8s add-node on the head)")
        try:
            url = microk8s.parse_join_url(module.params["invitation"], head)
        except microk8s.MicroK8sError as error:
            module.fail_json(msg=str(error))
        code, out, err = module.run_command([microk8s.COMMAND, "join", url, "--worker"])
        if code:
            module.fail_json(msg=microk8s.join_failure(code, out + err))
    module.exit_json(changed=True, heads=heads(), diff={"before": "", "after": f"joined {head} as a worker\n"})


if __name__ == "__main__":
    main()
