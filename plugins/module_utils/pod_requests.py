"""What pods request and what nodes have left, as the scheduler of Kubernetes counts. Pure; objects are plain dicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .gpu_products import GPU_RESOURCE, node_gpu_type, node_product
from .quantities import Resources, parse_count, parse_cpu, parse_memory

Object = Mapping[str, Any]

ENDED = ("Succeeded", "Failed")
# Effects of taints that keep new pods away.
_REPELLING = ("NoSchedule", "NoExecute")


def resources(amounts: Mapping[str, Any] | None, gpu_resource: str = GPU_RESOURCE) -> Resources:
    """Return a list of resources of Kubernetes (`{"cpu": "500m", ...}`) as amounts. Raises QuantityError."""
    amounts = amounts or {}
    return Resources(
        parse_cpu(amounts.get("cpu") or 0),
        parse_memory(amounts.get("memory") or 0),
        parse_count(amounts.get(gpu_resource) or 0),
    )


def _requests(holder: Object) -> dict[str, Any]:
    """The requests of a container or pod; where only a limit is stated, the API server requests as much."""
    stated = holder.get("resources") or {}
    return {**(stated.get("limits") or {}), **(stated.get("requests") or {})}


def _is_sidecar(container: Object) -> bool:
    return container.get("restartPolicy") == "Always"


class _Pod:
    """Reads the requests of a pod's containers, also while they are resized."""

    def __init__(self, pod: Object, gpu_resource: str) -> None:
        self._gpu_resource = gpu_resource
        status = pod.get("status") or {}
        self._statuses = {
            item["name"]: item
            for kind in ("containerStatuses", "initContainerStatuses")
            for item in status.get(kind) or []
        }
        self._infeasible = any(
            item.get("type") == "PodResizePending" and item.get("reason") == "Infeasible"
            for item in status.get("conditions") or []
        )

    def amounts(self, holder: Object) -> Resources:
        """What a container requests now; one that is resized holds the larger of the old and the new."""
        wanted = resources(_requests(holder), self._gpu_resource)
        status = self._statuses.get(holder.get("name", ""), {})
        if not status.get("resources"):
            return wanted
        actual = resources(status["resources"].get("requests"), self._gpu_resource)
        held = actual.largest(resources(status.get("allocatedResources"), self._gpu_resource))
        # GPUs cannot be resized, and the status of a container does not always repeat them.
        bound = Resources(gpu=wanted.gpu) if self._infeasible else wanted
        return held.largest(bound)


def pod_requests(pod: Object, gpu_resource: str = GPU_RESOURCE) -> Resources:
    """Return what a pod holds on its node, from when it is scheduled until it is gone.

    That is the larger of what its containers need together and what it takes to get there, init container by init
    container; sidecars (init containers that are always restarted) run on and count in both. Requests of the pod as a
    whole replace those of CPU and memory; the overhead of its runtime class comes on top. Raises QuantityError.
    """
    spec, reader = pod.get("spec") or {}, _Pod(pod, gpu_resource)
    total = sidecars = peak = Resources()
    for container in spec.get("containers") or []:
        total += reader.amounts(container)
    for container in spec.get("initContainers") or []:
        if _is_sidecar(container):
            amounts = reader.amounts(container)
            total, sidecars = total + amounts, sidecars + amounts
        else:
            peak = peak.largest(sidecars + resources(_requests(container), gpu_resource))
    total = total.largest(peak)
    whole = (spec.get("resources") or {}).get("requests") or {}
    total = Resources(
        parse_cpu(whole["cpu"]) if "cpu" in whole else total.cpu_milli,
        parse_memory(whole["memory"]) if "memory" in whole else total.memory_bytes,
        total.gpu,
    )
    return total + resources(spec.get("overhead"), gpu_resource)


def holds(pod: Object) -> bool:
    """Whether a pod holds resources of a node: it is scheduled and has not ended; while it terminates it still does."""
    return bool((pod.get("spec") or {}).get("nodeName")) and (pod.get("status") or {}).get("phase") not in ENDED


@dataclass(frozen=True)
class NodeAccount:
    """A node, what it has, and what pods hold of it.

    `capacity.gpu - allocatable.gpu` devices are unhealthy. `gpu_type` is empty where the node's labels name no GPU.
    `extra` holds further resources that it has, by name, and how many are free: `{"rdma/hca": 63}`. `repels` says why
    no pod is scheduled there, or is empty; `taints` keep away what does not tolerate them.
    """

    name: str
    gpu_type: str
    product: str
    capacity: Resources
    allocatable: Resources
    used: Resources
    extra: Mapping[str, int]
    taints: tuple[Mapping[str, Any], ...] = ()
    repels: str = ""

    @property
    def free(self) -> Resources:
        """What new pods could have here, taints aside; nothing where no pod is scheduled."""
        return Resources() if self.repels else (self.allocatable - self.used).at_least_zero()

    @property
    def unhealthy_gpu(self) -> int:
        """Devices that are there and cannot be used."""
        return max(self.capacity.gpu - self.allocatable.gpu, 0)

    def admits(self, tolerations: Iterable[Mapping[str, Any]]) -> bool:
        """Whether a pod with these tolerations may be scheduled here."""
        tolerations = list(tolerations)
        return all(any(_tolerates(toleration, taint) for toleration in tolerations) for taint in self.taints)


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in (None, "", taint.get("key"))
    return toleration.get("key") == taint.get("key") and (toleration.get("value") or "") == (taint.get("value") or "")


def _repels(node: Object) -> str:
    """What keeps every pod away from a node; empty if nothing does."""
    if (node.get("spec") or {}).get("unschedulable"):
        return "cordoned"
    conditions = (node.get("status") or {}).get("conditions") or []
    ready = any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)
    return "" if ready else "not ready"


def _is_selected(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def account(
    nodes: Iterable[Object],
    pods: Iterable[Object],
    selector: Mapping[str, str] | None = None,
    gpu_resource: str = GPU_RESOURCE,
    extra: Iterable[str] = (),
) -> list[NodeAccount]:
    """Return the nodes whose labels match `selector`, by name, with what the pods on them hold.

    `nodes` and `pods` are those of the cluster, pods of all namespaces. `extra` names further resources, of which the
    free number is counted. Raises QuantityError, which names an amount that cannot be read.
    """
    used: dict[str, Resources] = {}
    taken: Counter[tuple[str, str]] = Counter()
    extra = list(extra)
    for pod in pods:
        if holds(pod):
            name = pod["spec"]["nodeName"]
            used[name] = used.get(name, Resources()) + pod_requests(pod, gpu_resource)
            for resource in extra:
                taken[name, resource] += pod_requests(pod, resource).gpu
    result = []
    for node in nodes:
        labels = node["metadata"].get("labels") or {}
        if not _is_selected(labels, selector or {}):
            continue
        name, status = node["metadata"]["name"], node.get("status") or {}
        allocatable = status.get("allocatable") or {}
        repels = _repels(node)
        taints = (node.get("spec") or {}).get("taints") or []
        result.append(
            NodeAccount(
                name=name,
                gpu_type=node_gpu_type(labels),
                product=node_product(labels),
                capacity=resources(status.get("capacity"), gpu_resource),
                allocatable=resources(allocatable, gpu_resource),
                used=used.get(name, Resources()),
                extra={
                    resource: 0
                    if repels
                    else max(parse_count(allocatable.get(resource) or 0) - taken[name, resource], 0)
                    for resource in extra
                    if resource in allocatable
                },
                taints=tuple(taint for taint in taints if taint.get("effect") in _REPELLING),
                repels=repels,
            )
        )
    return sorted(result, key=lambda node: node.name)


def free_by_type(nodes: Iterable[NodeAccount]) -> dict[str, tuple[int, int]]:
    """Return GPU type -> (free GPUs, the largest block of them on one node), by type."""
    blocks: dict[str, list[int]] = {}
    for node in nodes:
        if node.gpu_type:
            blocks.setdefault(node.gpu_type, []).append(node.free.gpu)
    return {kind: (sum(free), max(free)) for kind, free in sorted(blocks.items())}
