"""Whether workloads and nodes are ready, and why not. Pure; objects are plain dicts of the Kubernetes API."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

Object = dict[str, Any]


def workload_problem(item: Object) -> str:
    """Return what a Deployment, StatefulSet or DaemonSet still lacks, or an empty string when it is rolled out.

    Same rules as `kubectl rollout status`. A Job is waited for until it is complete.
    """
    status, spec = item.get("status") or {}, item.get("spec") or {}
    if item["kind"] == "Job":
        return _job_problem(item)
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


def _job_problem(job: Object) -> str:
    if _condition(job, "Complete"):
        return ""
    if job_has_failed(job):
        return f"it has failed: {_condition(job, 'Failed').get('message') or 'no message'}"
    failed = (job.get("status") or {}).get("failed", 0)
    return f"it is not complete{f'; {failed} pods have failed' if failed else ''}"


def job_has_failed(job: Object) -> bool:
    """Whether a Job has given up; it stays so."""
    return bool(_condition(job, "Failed"))


def _condition(item: Object, kind: str) -> Object:
    """Return an object's condition of a type if it is true, else {}."""
    conditions = (item.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c["type"] == kind and c["status"] == "True"), {})


def node_problem(node: Object) -> str:
    """Return why a node is not Ready, or an empty string."""
    for condition in (node.get("status") or {}).get("conditions") or []:
        if condition["type"] == "Ready":
            return "" if condition["status"] == "True" else condition.get("message") or "not Ready"
    return "it has not reported yet"


def node_address(node: Object) -> str:
    """Return a node's internal address, or an empty string."""
    addresses = (node.get("status") or {}).get("addresses") or []
    return next((a["address"] for a in addresses if a["type"] == "InternalIP"), "")


def pods_of(workload: Object, pods: Iterable[Object]) -> list[Object]:
    """Return those of `pods` that a workload's selector chooses."""
    labels = ((workload.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
    namespace = workload["metadata"].get("namespace")
    return [
        pod
        for pod in pods
        if labels
        and pod["metadata"].get("namespace") == namespace
        and labels.items() <= (pod["metadata"].get("labels") or {}).items()
    ]


def waits_for_its_last_pod(workload: Object) -> bool:
    """Whether a Deployment with the strategy Recreate has no pods left, or none but finished ones.

    Its controller makes the new pod when the last of the old ones is deleted, and counts those that are only kept to be
    looked at (deletePod in pkg/controller/deployment/deployment_controller.go of Kubernetes 1.34): it would look again
    after progressDeadlineSeconds, ten minutes.
    """
    strategy = ((workload.get("spec") or {}).get("strategy") or {}).get("type")
    return strategy == "Recreate" and not (workload.get("status") or {}).get("replicas")


def pod_has_finished(pod: Object) -> bool:
    """Whether a pod runs no more and never will, such as one that was evicted."""
    return (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")


def pod_is_ready(pod: Object) -> bool:
    """Whether a pod is Ready."""
    return bool(_condition(pod, "Ready"))


def _containers(pod: Object) -> list[Object]:
    status = pod.get("status") or {}
    return (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or [])


def pod_problems(pods: Iterable[Object], events: Iterable[Object] = ()) -> list[str]:
    """Return one line for each pod that is not ready: node, phase, what its containers wait for, its last event."""
    lines = []
    events = list(events)
    for pod in pods:
        if pod_is_ready(pod):
            continue
        status = pod.get("status") or {}
        reasons = []
        for condition in status.get("conditions") or []:
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                reasons.append(condition.get("message") or "not scheduled")
        for container in _containers(pod):
            for state in ("waiting", "terminated"):
                detail = (container.get("state") or {}).get(state)
                if detail and detail.get("reason") not in ("Completed", "PodInitializing"):
                    text = f"{container['name']}: {detail.get('reason')}"
                    reasons.append(f"{text} ({_short(detail['message'])})" if detail.get("message") else text)
            if container.get("restartCount"):
                reasons.append(f"{container['name']} restarted {container['restartCount']} times")
        own = [e for e in events if _is_about(e, "Pod", pod["metadata"]["name"])]
        last = f"; last event {_event(max(own, key=_when))}" if own else ""
        name = f"{pod['metadata'].get('namespace')}/{pod['metadata']['name']}"
        where = (pod.get("spec") or {}).get("nodeName") or "no node yet"
        lines.append(f"pod {name} on {where}: {status.get('phase')}; {'; '.join(reasons) or 'not ready yet'}{last}")
    return lines


def last_events(events: Iterable[Object], limit: int = 5) -> list[str]:
    """Return the newest `limit` warnings among `events`, oldest first, one line each."""
    warnings = sorted((e for e in events if e.get("type") == "Warning"), key=_when)[-limit:]
    return [
        f"{_when(e)} {e['involvedObject'].get('kind')} {e['involvedObject'].get('name')}: {_told(e)}" for e in warnings
    ]


def events_of(workload: Object, events: Iterable[Object]) -> list[Object]:
    """Return those of `events` that concern a workload or what its controllers made for it, pods included."""
    name = workload["metadata"]["name"]
    return [
        e
        for e in events
        if (e["involvedObject"].get("name") or "") == name
        or (e["involvedObject"].get("name") or "").startswith(f"{name}-")
    ]


class Log(NamedTuple):
    """A container's log that is worth reading; `previous` means that of its last run."""

    namespace: str
    pod: str
    container: str
    previous: bool


def logs_to_read(pods: Iterable[Object], limit: int = 4) -> list[Log]:
    """Return the logs that can explain why pods are not ready, at most `limit`; those of ended containers first."""
    ended, running = [], []
    for pod in pods:
        if pod_is_ready(pod):
            continue
        for container in _containers(pod):
            state, before = container.get("state") or {}, container.get("lastState") or {}
            place = (pod["metadata"].get("namespace", ""), pod["metadata"]["name"], container["name"])
            if "terminated" in state:
                if state["terminated"].get("exitCode"):
                    ended.append(Log(*place, previous=False))
            elif "terminated" in before:
                ended.append(Log(*place, previous=True))
            elif "running" in state and not container.get("ready"):
                running.append(Log(*place, previous=False))
    return (ended + running)[:limit]


def log_lines(log: Log, text: str, limit: int = 8, width: int = 240) -> list[str]:
    """Return the last `limit` lines of a log under a heading, each cut to `width` characters."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()][-limit:]
    run = "last run of " if log.previous else ""
    heading = f"log of {run}{log.namespace}/{log.pod}, container {log.container}:"
    return [heading, *(f"  | {line[:width]}" for line in lines or ["(empty)"])]


def progress(missing: Iterable[str], pods: Iterable[str], seconds: float, timeout: float, width: int = 600) -> str:
    """Return one line for people who wait: how long, for what, and what its pods do."""
    told = " | ".join([*missing, *pods])
    return f"{seconds:.0f} of {timeout:.0f} s: {told if len(told) <= width else told[: width - 3] + '...'}"


def _short(text: str, width: int = 200) -> str:
    """Return the text as one line; of a long one both ends, as causes come last."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width // 2]} ... {line[-width // 2 :]}"


def _is_about(event: Object, kind: str, name: str) -> bool:
    return event["involvedObject"].get("kind") == kind and event["involvedObject"].get("name") == name


def _when(event: Object) -> str:
    return event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or ""


def _told(event: Object) -> str:
    return f"{event.get('reason')}: {_short(event.get('message') or '')}"


def _event(event: Object) -> str:
    """Return time of day, reason and message."""
    return f"{_when(event)[11:19]} {_told(event)}".strip()
