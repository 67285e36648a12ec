"""Waiting for workloads and nodes of a cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from . import kube_client as kube
from . import kube_rollout as rollout
from .kube_explanation import explain_pods

POLL_SECONDS = 0.5
# Kinds that are waited for, and where the API has them.
WORKLOADS = {"DaemonSet": "apps/v1", "Deployment": "apps/v1", "Job": "batch/v1", "StatefulSet": "apps/v1"}

# kind, namespace and name of a workload.
Workload = Mapping[str, str]


class NotReadyError(Exception):
    """The time is over. `missing` says what is not ready, one line each; the message also what may explain it."""

    def __init__(self, seconds: float, missing: Sequence[str], explanation: Sequence[str]) -> None:
        super().__init__("\n".join([f"not ready after {seconds:.0f} s:", *missing, *explanation]))
        self.missing = list(missing)


class Outcome(NamedTuple):
    """`seconds` it took, all executions together; what is `missing`, and a line on it where it is `waiting` still."""

    seconds: float
    missing: list[str]
    waiting: str


def workload(item: kube.Object) -> Workload:
    """The workload that an object is."""
    metadata = item["metadata"]
    return {"kind": item["kind"], "namespace": metadata.get("namespace", "default"), "name": metadata["name"]}


class Wait:
    """What is waited for in one cluster. The API server itself may be restarting, so every look connects if need be."""

    def __init__(
        self,
        kubeconfig: str,
        nodes: Sequence[str],
        workloads: Sequence[Workload],
        cluster: kube.Cluster | None = None,
    ) -> None:
        self._kubeconfig, self._nodes, self._workloads = kubeconfig, nodes, workloads
        self._cluster = cluster
        self._late: list[kube.Object] = []
        self.addresses: dict[str, str] = {}

    def _connected(self) -> kube.Cluster:
        self._cluster = self._cluster or kube.Cluster(self._kubeconfig)
        return self._cluster

    def run(self, timeout: float, waited: float = 0, slice_seconds: float = 0) -> Outcome:
        """Return once all is ready, or after `slice_seconds` (0: never); looks once at the least.

        `waited` are the seconds of `timeout` that earlier executions have used. Raises NotReadyError.
        """
        started = time.monotonic()
        while True:
            missing = self.missing()
            here = time.monotonic() - started
            seconds = round(waited + here, 1)
            if not missing:
                return Outcome(seconds, [], "")
            self._clear_the_way()
            if seconds > timeout:
                raise NotReadyError(seconds, missing, self.explanation())
            if slice_seconds and here > slice_seconds:
                return Outcome(seconds, missing, rollout.progress(missing, self.pods(), seconds, timeout))
            time.sleep(POLL_SECONDS)

    def missing(self) -> list[str]:
        """Return what is not ready yet, one line each; empty when all is."""
        self._late = []
        try:
            cluster = self._connected()
            return [*self._missing_nodes(cluster), *self._missing_workloads(cluster)]
        except Exception as error:
            return [f"API server: {kube.explain(error)}"]

    def _missing_nodes(self, cluster: kube.Cluster) -> list[str]:
        lines = []
        live = {node["metadata"]["name"]: node for node in cluster.list("v1", "Node")} if self._nodes else {}
        for name in self._nodes:
            problem = rollout.node_problem(live[name]) if name in live else "it has not joined the cluster"
            if problem:
                lines.append(f"node {name}: {problem}")
            else:
                self.addresses[name] = rollout.node_address(live[name])
        return lines

    def _missing_workloads(self, cluster: kube.Cluster) -> list[str]:
        lines = []
        for workload in self._workloads:
            item = {
                "apiVersion": WORKLOADS[workload["kind"]],
                "kind": workload["kind"],
                "metadata": {"namespace": workload["namespace"], "name": workload["name"]},
            }
            live = cluster.get(item)
            problem = rollout.workload_problem({**live, "kind": workload["kind"]}) if live else "it does not exist"
            if problem:
                lines.append(f"{workload['kind']} {workload['namespace']}/{workload['name']}: {problem}")
                self._late.append(live or item)
        return lines

    def _clear_the_way(self) -> None:
        """Delete finished pods that a Deployment waits for in vain; their events stay."""
        try:
            cluster = self._connected()
            for workload in filter(rollout.waits_for_its_last_pod, self._late):
                namespace = workload["metadata"]["namespace"]
                pods = rollout.pods_of(workload, cluster.list("v1", "Pod", namespace=namespace))
                if all(map(rollout.pod_has_finished, pods)):
                    for pod in pods:
                        cluster.delete(pod)
        except Exception:
            # Whatever it is, the next look tells.
            return

    def pods(self) -> list[str]:
        """Return the state and last event of each pod of what is late; where there is no pod, the last warning."""
        lines = []
        try:
            for workload, pods, events in self._surroundings():
                told = rollout.pod_problems(pods, events)
                lines += told or rollout.last_events(rollout.events_of(workload, events), limit=1)
        except Exception as error:
            lines.append(f"no details: {kube.explain(error)}")
        return lines

    def explanation(self) -> list[str]:
        """Return pods, last warnings and logs of what is late, without secrets; bounded."""
        lines = []
        try:
            for workload, pods, events in self._surroundings():
                concerned = rollout.events_of(workload, events)
                lines += explain_pods(self._connected(), workload["metadata"]["namespace"], pods, concerned)
        except Exception as error:
            lines.append(f"no details: {kube.explain(error)}")
        return lines

    def _surroundings(self) -> list[tuple[kube.Object, list[kube.Object], list[kube.Object]]]:
        found = []
        for workload in self._late:
            cluster = self._connected()
            namespace = workload["metadata"]["namespace"]
            pods = rollout.pods_of(workload, cluster.list("v1", "Pod", namespace=namespace))
            found.append((workload, pods, cluster.list("v1", "Event", namespace=namespace)))
        return found
