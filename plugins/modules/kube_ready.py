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

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import kube_client as kube
from ..module_utils.kube_rollout import last_events, node_problem, pod_problems, workload_problem

POLL_SECONDS = 0.5


def problems(cluster: kube.Cluster, params: dict[str, Any]) -> list[str]:
    """What is not ready yet, one line each; empty when all is."""
    lines = []
    if params["nodes"]:
        live = {node["metadata"]["name"]: node for node in cluster.list("v1", "Node")}
        for name in params["nodes"]:
            problem = node_problem(live[name]) if name in live else "it has not joined the cluster"
            if problem:
                lines.append(f"node {name}: {problem}")
    for workload in params["workloads"]:
        item = {
            "apiVersion": "apps/v1",
            "kind": workload["kind"],
            "metadata": {"namespace": workload["namespace"], "name": workload["name"]},
        }
        live_item = cluster.get(item)
        problem = workload_problem({**live_item, "kind": workload["kind"]}) if live_item else "it does not exist"
        if problem:
            lines.append(f"{workload['kind']} {workload['namespace']}/{workload['name']}: {problem}")
    return lines


def explanation(cluster: kube.Cluster, params: dict[str, Any]) -> list[str]:
    """Pods that are not ready and last warnings, of the namespaces asked for."""
    lines = []
    for namespace in sorted({workload["namespace"] for workload in params["workloads"]}):
        lines += pod_problems(cluster.list("v1", "Pod", namespace=namespace))
        lines += last_events(cluster.list("v1", "Event", namespace=namespace))
    return lines


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
    started = time.monotonic()
    missing: list[str] = []
    while True:
        try:
            missing = problems(cluster, module.params)
        except Exception as error:
            # The API server itself may be restarting: that is one more thing to wait for.
            missing = [f"API server: {kube.explain(error)}"]
        if not missing or module.check_mode or time.monotonic() - started > module.params["timeout"]:
            break
        time.sleep(POLL_SECONDS)
    seconds = round(time.monotonic() - started, 1)
    if missing and not module.check_mode:
        try:
            details = explanation(cluster, module.params)
        except Exception as error:
            details = [f"no details: {kube.explain(error)}"]
        module.fail_json(msg="\n".join([f"not ready after {seconds:.0f} s:", *missing, *details]))
    addresses = {}
    if module.params["nodes"] and not missing:
        for node in cluster.list("v1", "Node"):
            for address in node["status"].get("addresses", []):
                if address["type"] == "InternalIP" and node["metadata"]["name"] in module.params["nodes"]:
                    addresses[node["metadata"]["name"]] = address["address"]
    module.exit_json(changed=False, seconds=seconds, nodes=addresses, missing=missing)


if __name__ == "__main__":
    main()
