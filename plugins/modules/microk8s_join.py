#!/usr/bin/python
"""A worker joined to a MicroK8s cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microk8s_join
short_description: Join a host to a MicroK8s cluster as a worker
description:
  - Runs C(microk8s join --worker) unless the host has joined already.
  - Takes up a join that was killed half-way.
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
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import microk8s

LOCKS = Path(microk8s.SNAP_DATA, "var/lock")


def heads() -> list[str]:
    """The API servers of the cluster that this worker has joined."""
    provider = Path(microk8s.SNAP_DATA, "args/traefik/provider.yaml")
    return microk8s.parse_worker_heads(provider.read_text(encoding="utf-8")) if provider.exists() else []


def clear_killed_join(module: AnsibleModule) -> None:
    """Remove the lock of a join that no process works on any more: nothing else ever does."""
    lock = LOCKS / "join-in-progress"
    if not lock.exists():
        return
    code, _out, _err = module.run_command(["pgrep", "-f", r"microk8s[- ]join|scripts/cluster/join"])
    if code:
        lock.unlink()


def main() -> None:
    """Join once."""
    module = AnsibleModule(
        argument_spec={
            "head": {"type": "str", "required": True},
            # It holds the token that lets a host into the cluster.
            "invitation": {"type": "str", "no_log": True},
        },
        supports_check_mode=True,
    )
    head, joined = module.params["head"], (LOCKS / "clustered.lock").exists()
    if joined:
        addresses = [re.sub(r":\d+$", "", address) for address in heads()]
        if addresses and head not in addresses:
            module.fail_json(
                msg=f"this host is a worker of another cluster ({', '.join(addresses)}), not of {head}: "
                "take it out there first (microk8s leave), or name the right head in the inventory"
            )
        module.exit_json(changed=False, heads=heads())
    if not module.check_mode:
        clear_killed_join(module)
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
