"""Whether workloads and nodes are ready, and why not. Pure; objects are plain dicts of the Kubernetes API."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Object = dict[str, Any]


def workload_problem(item: Object) -> str:
    """Return what a Deployment, StatefulSet or DaemonSet still lacks, or an empty string when it is rolled out.

    Same rules as `kubectl rollout status`.
    """
    status, spec = item.get("status") or {}, item.get("spec") or {}
    if status.get("observedGeneration", 0) < item["metadata"].get("generation", 0):
        return "the controller has not seen the latest definition yet"
    if item["kind"] == "DaemonSet":
        wanted = status.get("desiredNumberScheduled", 0)
        updated, ready = status.get("updatedNumberScheduled", 0), status.get("numberAvailable", 0)
        if not wanted:
            return "no node is chosen for it yet"
    else:
        wanted = spec.get("replicas", 1)
        updated = status.get("updatedReplicas", 0)
        ready = status.get("availableReplicas", status.get("readyReplicas", 0))
        if status.get("replicas", 0) > max(updated, wanted):
            return f"{status['replicas'] - updated} pods of the old definition are still there"
    if updated < wanted:
        return f"{updated} of {wanted} pods have the latest definition"
    if ready < wanted:
        return f"{ready} of {wanted} pods are available"
    return ""


def node_problem(node: Object) -> str:
    """Return why a node is not Ready, or an empty string."""
    for condition in (node.get("status") or {}).get("conditions") or []:
        if condition["type"] == "Ready":
            return "" if condition["status"] == "True" else condition.get("message") or "not Ready"
    return "it has not reported yet"


def pod_problems(pods: Iterable[Object]) -> list[str]:
    """Return one line for each pod that is not ready: its node, phase and what its containers wait for."""
    lines = []
    for pod in pods:
        status = pod.get("status") or {}
        conditions = {c["type"]: c for c in status.get("conditions") or []}
        if conditions.get("Ready", {}).get("status") == "True":
            continue
        reasons = []
        scheduled = conditions.get("PodScheduled", {})
        if scheduled.get("status") == "False":
            reasons.append(scheduled.get("message", "not scheduled"))
        for container in (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or []):
            for state in ("waiting", "terminated"):
                detail = (container.get("state") or {}).get(state)
                if detail and detail.get("reason") not in ("Completed", "PodInitializing"):
                    text = f"{container['name']}: {detail.get('reason')}"
                    reasons.append(f"{text} ({detail['message']})" if detail.get("message") else text)
        name = f"{pod['metadata'].get('namespace')}/{pod['metadata']['name']}"
        where = (pod.get("spec") or {}).get("nodeName") or "no node yet"
        lines.append(f"pod {name} on {where}: {status.get('phase')}; {'; '.join(reasons) or 'not ready yet'}")
    return lines


def last_events(events: Iterable[Object], limit: int = 5) -> list[str]:
    """Return the newest `limit` warnings among `events`, oldest first, one line each."""

    def when(event: Object) -> str:
        return event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or ""

    warnings = sorted((e for e in events if e.get("type") == "Warning"), key=when)[-limit:]
    return [
        f"{when(e)} {e['involvedObject'].get('kind')} {e['involvedObject'].get('name')}: "
        f"{e.get('reason')}: {(e.get('message') or '').strip()}"
        for e in warnings
    ]
