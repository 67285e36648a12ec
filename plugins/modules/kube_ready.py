#!/usr/bin/python
"""Wait until workloads and nodes of a cluster are ready."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kube_ready
short_description: Wait until workloads and nodes are ready
description:
  - Waits for the roll-outs of all workloads and for all nodes named. When all is ready at once, that is one execution.
  - While it waits it shows every few seconds what is missing, the state of the pods concerned and their last event.
  - When the time is over it fails with the same, the last warnings, and the last lines of the logs of containers that
    fail. What looks like a secret, and every value of the Secrets of the namespace, is hidden in them.
  - A Deployment that is made anew (C(strategy) C(Recreate)) and has none but finished pods, evicted ones for example,
    would wait for them for ten minutes; they are deleted.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes.read_only
  - gpuhub.platform.kube
attributes:
  check_mode:
    description: Looks once, waits for nothing and deletes nothing.
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
        choices: [DaemonSet, Deployment, Job, StatefulSet]
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
  slice:
    description:
      - Seconds after which the module returns with what it still waits for; V(0) is never.
      - The action plugin sets this, to show progress, and runs the module again with O(waited).
    type: float
    default: 0
  waited:
    description: Seconds of O(timeout) that earlier executions have used.
    type: float
    default: 0
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
waiting:
  description: What it still waits for, as one line, if the time of O(slice) was over.
  type: str
  returned: when O(slice) is over
  sample: "8 of 300 s: Deployment jhub/hub: 0 of 1 pods are available | pod jhub/hub-1 on head: Pending; not ready yet"
missing:
  description: What is not ready, in check mode or when O(slice) is over.
  type: list
  elements: str
  returned: success
nodes:
  description: For each node asked for, its internal address.
  type: dict
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import kube_client as kube
from ..module_utils.kube_wait import WORKLOADS, NotReadyError, Wait


def main() -> None:
    """Wire the options to the waiting."""
    module = AnsibleModule(
        argument_spec={
            "workloads": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "kind": {"type": "str", "choices": list(WORKLOADS), "required": True},
                    "namespace": {"type": "str", "required": True},
                    "name": {"type": "str", "required": True},
                },
            },
            "nodes": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 300},
            "slice": {"type": "float", "default": 0},
            "waited": {"type": "float", "default": 0},
            **kube.ARGUMENT_SPEC,
        },
        supports_check_mode=True,
    )
    kube.require_library(module)
    options = module.params
    wait = Wait(options["kubeconfig"], options["nodes"], options["workloads"])
    try:
        if module.check_mode:
            module.exit_json(changed=False, seconds=0.0, missing=wait.missing(), nodes=wait.addresses)
        outcome = wait.run(options["timeout"], options["waited"], options["slice"])
    except NotReadyError as error:
        module.fail_json(msg=str(error), missing=error.missing)
    result = {"seconds": outcome.seconds, "missing": outcome.missing, "nodes": wait.addresses}
    if outcome.waiting:
        result["waiting"] = outcome.waiting
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
