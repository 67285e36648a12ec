#!/usr/bin/python
"""Wait until workloads and nodes of a cluster are ready."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kube_ready
short_description: Wait until workloads and nodes are ready
description:
  - Waits for the roll-outs of all workloads and for all nodes named, in one execution.
  - When the time is over it fails with what is missing, the state of the pods concerned and the last warnings.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes.read_only
  - gpuhub.platform.kube
options:
  workloads:
    description: Workloads whose roll-out is awaited.
    type: list
    elements: dict
    default: []
    suboptions:
      kind:
        description: Kind of the workload.
        type: str
        choices: [Deployment, DaemonSet, StatefulSet]
        required: true
      namespace:
        description: Namespace of the workload.
        type: str
        required: true
      name:
        description: Name of the workload.
        type: str
        required: true
  nodes:
    description: Names of nodes that must be Ready.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds to wait.
    type: int
    default: 300
"""

EXAMPLES = r"""
- name: The network is ready on every node
  gpuhub.platform.kube_ready:
    nodes: [head, worker1]
    workloads:
      - {kind: DaemonSet, namespace: kube-system, name: calico-node}
"""

RETURN = r"""
seconds:
  description: How long it took.
  type: float
  returned: success
nodes:
  description: For each node asked for, its internal address.
  type: dict
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import kube_client as kube
from ..module_utils.kube_wait import NotReadyError, wait


def main() -> None:
    """Wire the options to the waiting."""
    module = AnsibleModule(
        argument_spec={
            "workloads": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "kind": {"type": "str", "choices": ["Deployment", "DaemonSet", "StatefulSet"], "required": True},
                    "namespace": {"type": "str", "required": True},
                    "name": {"type": "str", "required": True},
                },
            },
            "nodes": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 300},
            **kube.ARGUMENT_SPEC,
        },
        supports_check_mode=True,
    )
    cluster = kube.Cluster(module)
    params = module.params
    timeout = 0 if module.check_mode else params["timeout"]
    seconds, missing = 0.0, []
    try:
        seconds = wait(cluster, params["workloads"], params["nodes"], timeout)
    except NotReadyError as error:
        if not module.check_mode:
            module.fail_json(msg=str(error))
        missing = error.missing
    addresses = {}
    if params["nodes"] and not missing:
        for node in cluster.list("v1", "Node"):
            for address in node["status"].get("addresses", []):
                if address["type"] == "InternalIP" and node["metadata"]["name"] in params["nodes"]:
                    addresses[node["metadata"]["name"]] = address["address"]
    module.exit_json(changed=False, seconds=seconds, nodes=addresses, missing=missing)


if __name__ == "__main__":
    main()
