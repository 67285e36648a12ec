"""From objects of the Kubernetes API to facts. Pure; takes dicts as the API server sends them."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from gpuhub_core.gpu_products import GPU_RESOURCE, node_gpu_type
from gpuhub_core.pod_requests import account, holds, pod_requests, resources
from gpuhub_core.quantities import QuantityError, Resources, parse_count

from gpuhub_portal.ledger.facts import Pod

_LOG = logging.getLogger(__name__)

NOTEBOOK, JOB, OTHER = "notebook", "job", "other"
_NAMESPACE = uuid.UUID("0b5ef1a6-5a5b-4c53-9d1f-0f8f6f3d2a47")
_HUB = "hub.jupyter.org/"
_OURS = "gpuhub.io/"
_TERMINAL = frozenset({"Succeeded", "Failed"})
# Why a kubelet does not let a pod in that it was given. After a boot it judges those again that it had before.
_REFUSALS = frozenset({"UnexpectedAdmissionError", "NodeAffinity", "TopologyAffinityError"})
# More than any node has, and so little that sums over years fit into 64 bits: what a pod requests is its author's word.
_MOST = Resources(cpu_milli=10**9, memory_bytes=2**50, gpu=10**6)


def seconds(text: str | None) -> int | None:
    """Seconds since 1970 of a time of the API, cut to whole ones."""
    if not text:
        return None
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    at = int(moment.timestamp())
    # Kubelet writes the zero time for a container that it knows nothing about.
    return at if at > 0 else None


def condition(obj: dict, kind: str) -> dict:
    """A condition of an object's status, {} if it has none of this type."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each.get("type") == kind), {})


def requested(obj: dict, resource: str = GPU_RESOURCE) -> Resources:
    """What a pod requests, as the scheduler counts.

    An amount that cannot be read is none: it must not keep the others out of the ledger.
    """
    try:
        return Resources(*map(min, pod_requests(obj, resource).amounts(), _MOST.amounts()))
    except QuantityError as error:
        _LOG.error("pod %s: %s", obj["metadata"]["uid"], error)
        return Resources()


def _is_extended(resource: str) -> bool:
    """Whether these are devices of a plugin other than GPUs: RDMA, slices of GPUs."""
    return "/" in resource and resource != GPU_RESOURCE and not resource.startswith("attachable-volumes")


@dataclass(frozen=True, slots=True)
class Requests:
    """What a pod takes of its node; `extended` by name of the resource: `{"rdma/hca": 1}`."""

    pod_uid: str
    node: str
    cpu_milli: int
    memory_bytes: int
    extended: Mapping[str, int] = field(default_factory=dict)


def observe_requests(obj: dict, amounts: Resources | None = None) -> Requests | None:
    """What any pod takes of its node, None where it takes nothing (any more); `amounts` if they are known already."""
    if not holds(obj):
        return None
    spec, amounts = obj["spec"], amounts or requested(obj)
    named = {
        resource
        for container in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
        for stated in (container.get("resources") or {}).values()
        if isinstance(stated, Mapping)
        for resource in stated
        if _is_extended(resource)
    }
    return Requests(
        pod_uid=obj["metadata"]["uid"],
        node=spec["nodeName"],
        cpu_milli=amounts.cpu_milli,
        memory_bytes=amounts.memory_bytes,
        extended={resource: requested(obj, resource).gpu for resource in sorted(named)},
    )


def observe_pod(obj: dict, seen_at: int | None, amounts: Resources | None = None) -> Pod | None:
    """The facts in a pod's object that was there at a time; None for one that the ledger does not keep.

    Kept are pods with a node that are notebooks, jobs, or anything else with a GPU. `amounts` is what it requests, if
    that is known already.
    """
    metadata, spec = obj["metadata"], obj.get("spec") or {}
    node = spec.get("nodeName") or ""
    if not node:
        return None
    amounts = amounts or requested(obj)
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    uid, namespace = metadata["uid"], metadata["namespace"]
    job = labels.get(_OURS + "job", "")
    if labels.get("component") == "singleuser-server":
        kind, username = NOTEBOOK, annotations.get(_HUB + "username") or labels.get(_HUB + "username", "")
        servername = annotations.get(_HUB + "servername") or labels.get(_HUB + "servername", "")
    elif job:
        kind, username = JOB, annotations.get(_OURS + "username") or labels.get(_OURS + "username", "")
        servername = job
    elif amounts.gpu:
        kind, username, servername = OTHER, "", ""
    else:
        return None
    status = obj.get("status") or {}
    created_at = seconds(metadata.get("creationTimestamp"))
    scheduled = condition(obj, "PodScheduled")
    scheduled_at = seconds(scheduled.get("lastTransitionTime")) if scheduled.get("status") == "True" else None
    started_at, finished_at = _container_times(status)
    terminal = status.get("phase") in _TERMINAL
    pod = dict(
        pod_uid=uid,
        namespace=namespace,
        pod=metadata["name"],
        # PostgreSQL has no text with NUL, annotations may.
        username=username.replace("\0", ""),
        kind=kind,
        servername=servername.replace("\0", ""),
        session_id=session_id(kind, namespace, uid, servername),
        reservation=labels.get(_OURS + "reservation", ""),
        refused=_refusal(status),
        node=node,
        gpu=amounts.gpu,
        cpu_milli=amounts.cpu_milli,
        memory_bytes=amounts.memory_bytes,
        created_at=created_at,
        # A static pod is never scheduled.
        scheduled_at=scheduled_at or seconds(status.get("startTime")) or created_at,
        started_at=started_at,
        finished_at=finished_at if terminal else None,
        last_seen_at=seen_at,
    )
    return Pod(**pod)


def session_id(kind: str, namespace: str, pod_uid: str, job: str) -> str:
    """The session that a pod belongs to: all pods of a job are one, every other pod is one of its own."""
    return str(uuid.uuid5(_NAMESPACE, f"{JOB}/{namespace}/{job}" if kind == JOB else f"{kind}/{pod_uid}"))


def _refusal(status: dict) -> str:
    """Why a kubelet has refused a pod, which then has no containers; empty if it has not."""
    reason = status.get("reason") or ""
    refused = reason in _REFUSALS or reason.startswith("OutOf")
    return reason if refused and status.get("phase") == "Failed" and not status.get("containerStatuses") else ""


def ended_without_trace(obj: dict) -> bool:
    """Whether a pod has ended although no container says when: evicted, or given up with its node."""
    status = obj.get("status") or {}
    return status.get("phase") in _TERMINAL and _container_times(status)[1] is None


def finished_at(obj: dict) -> int | None:
    """When the last container finished, of a pod that has been removed; None if one has not."""
    return _container_times(obj.get("status") or {})[1]


def _container_times(status: dict) -> tuple[int | None, int | None]:
    """(first start, last end) of a pod's containers; no end while one of the main ones has none."""
    main = status.get("containerStatuses") or []
    starts, ends, complete = [], [], bool(main)
    for index, container in enumerate([*main, *(status.get("initContainerStatuses") or [])]):
        state = container.get("state") or {}
        terminated = state.get("terminated") or {}
        end = seconds(terminated.get("finishedAt"))
        if index < len(main):
            starts += [seconds((state.get("running") or terminated).get("startedAt"))]
            starts += [seconds(((container.get("lastState") or {}).get("terminated") or {}).get("startedAt"))]
            complete = complete and end is not None
        ends.append(end)
    started = min((each for each in starts if each is not None), default=None)
    if not complete:
        return started, None
    return started, max(each for each in ends if each is not None)


@dataclass(frozen=True, slots=True)
class Node:
    """What a node's object says. `gpu` counts healthy devices, whether or not the node is ready."""

    uid: str
    name: str
    version: int
    ready: bool
    ready_since: int
    heartbeat: int
    gpu: int
    gpu_type: str

    @property
    def offered(self) -> int:
        """Devices that pods could be given."""
        return self.gpu if self.ready else 0


def observe_node(obj: dict, now: int) -> Node:
    """Read a node's object that was received at a time."""
    metadata, ready = obj["metadata"], condition(obj, "Ready")
    created = seconds(metadata.get("creationTimestamp")) or now
    return Node(
        uid=metadata["uid"],
        name=metadata["name"],
        version=version(metadata.get("resourceVersion")),
        ready=ready.get("status") == "True",
        ready_since=seconds(ready.get("lastTransitionTime")) or created,
        heartbeat=seconds(ready.get("lastHeartbeatTime")) or created,
        gpu=resources((obj.get("status") or {}).get("allocatable")).gpu,
        gpu_type=node_gpu_type(metadata.get("labels") or {}),
    )


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a node has now, and what all pods on it request.

    `gpu` counts healthy devices, `gpu_capacity` all. `taints` are those that keep new pods away.
    """

    node: str
    node_uid: str
    product: str
    gpu_type: str
    gpu_capacity: int
    gpu: int
    cpu_milli: int
    memory_bytes: int
    ready: bool
    schedulable: bool
    taints: list[dict[str, Any]] = field(default_factory=list)
    extended: Mapping[str, int] = field(default_factory=dict)
    requested_cpu_milli: int = 0
    requested_memory_bytes: int = 0
    requested_extended: Mapping[str, int] = field(default_factory=dict)


def observe_state(obj: dict) -> NodeState:
    """What a node's object says of it, without what pods request."""
    (found,) = account([obj], [])
    allocatable = (obj.get("status") or {}).get("allocatable") or {}
    return NodeState(
        node=found.name,
        node_uid=obj["metadata"]["uid"],
        product=found.product,
        gpu_type=found.gpu_type,
        gpu_capacity=found.capacity.gpu,
        gpu=found.allocatable.gpu,
        cpu_milli=found.allocatable.cpu_milli,
        memory_bytes=found.allocatable.memory_bytes,
        ready=condition(obj, "Ready").get("status") == "True",
        schedulable=not (obj.get("spec") or {}).get("unschedulable"),
        taints=[dict(taint) for taint in found.taints],
        extended={name: parse_count(amount) for name, amount in sorted(allocatable.items()) if _is_extended(name)},
    )


def version(text: str | None) -> int:
    """A resourceVersion as a number. Kubernetes promises an order since 1.35 and has always had it with etcd."""
    return int(text) if text and text.isdigit() else 0
