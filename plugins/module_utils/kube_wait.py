"""Waiting for workloads and nodes of a cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from . import kube_client as kube
from .kube_rollout import last_events, node_problem, pod_problems, workload_problem

POLL_SECONDS = 0.5
WORKLOADS = ("DaemonSet", "Deployment", "StatefulSet")

# kind, namespace and name of a workload.
Workload = Mapping[str, str]


class NotReadyError(Exception):
    """The time is over. `missing` says what is not ready, one line each; the message also what may explain it."""

    def __init__(self, seconds: float, missing: Sequence[str], details: Sequence[str]) -> None:
        super().__init__("\n".join([f"not ready after {seconds:.0f} s:", *missing, *details]))
        self.missing = list(missing)


def workload(item: kube.Object) -> Workload:
    """The workload that an object is."""
    metadata = item["metadata"]
    return {"kind": item["kind"], "namespace": metadata.get("namespace", "default"), "name": metadata["name"]}


def wait(cluster: kube.Cluster, workloads: Sequence[Workload], nodes: Sequence[str], timeout: float) -> float:
    """Return the seconds it took until all workloads were rolled out and all nodes Ready; looks once at the least.

    Raises NotReadyError after `timeout` seconds.
    """
    started = time.monotonic()
    while True:
        try:
            missing = problems(cluster, workloads, nodes)
        except Exception as error:
            # The API server itself may be restarting: that is one more thing to wait for.
            missing = [f"API server: {kube.explain(error)}"]
        seconds = time.monotonic() - started
        if not missing:
            return round(seconds, 1)
        if seconds >= timeout:
            break
        time.sleep(POLL_SECONDS)
    try:
        details = explanation(cluster, workloads)
    except Exception as error:
        details = [f"no details: {kube.explain(error)}"]
    raise NotReadyError(seconds, missing, details)


def problems(cluster: kube.Cluster, workloads: Sequence[Workload], nodes: Sequence[str]) -> list[str]:
    """What is not ready yet, one line each; empty when all is."""
    lines = []
    if nodes:
        live = {node["metadata"]["name"]: node for node in cluster.list("v1", "Node")}
        for name in nodes:
            problem = node_problem(live[name]) if name in live else "it has not joined the cluster"
            if problem:
                lines.append(f"node {name}: {problem}")
    for workload in workloads:
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


def explanation(cluster: kube.Cluster, workloads: Sequence[Workload]) -> list[str]:
    """Pods that are not ready and last warnings, of the namespaces of the workloads."""
    lines = []
    for namespace in sorted({workload["namespace"] for workload in workloads}):
        lines += pod_problems(cluster.list("v1", "Pod", namespace=namespace))
        lines += last_events(cluster.list("v1", "Event", namespace=namespace))
    return lines
