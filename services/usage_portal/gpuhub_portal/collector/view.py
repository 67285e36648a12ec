"""The cluster as the collector sees it, and what the ledger has not been told yet. Pure.

Both are kept by pod and by node, not as a queue of events: while the database is away they grow with the pods that come
and go, not with what happens to them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from gpuhub_portal.ledger import capacity, facts, objects
from gpuhub_portal.ledger.capacity import Step
from gpuhub_portal.ledger.facts import Pod
from gpuhub_portal.ledger.objects import Node, NodeState, Requests
from gpuhub_portal.ledger.store import Batch, Known


@dataclass(frozen=True)
class Reading:
    """When something was read, and up to when all that had happened before was known.

    live     it was received as it happened
    listed   it is the state of now: what happened in between was not seen
    """

    now: int
    contact: int
    live: bool = False
    listed: bool = False

    @property
    def gone_after(self) -> int:
        """The last time at which what is gone now was there."""
        return self.now if self.live else min(self.contact, self.now)


@dataclass(frozen=True)
class _Device:
    """A node as it was last seen, and when its last step was."""

    node: Node
    since: int


class View:
    """Fed with objects, it gives batches."""

    def __init__(self) -> None:
        self._pods: dict[str, Pod] = {}
        self._by_node: dict[str, set[str]] = defaultdict(set)
        self._devices: dict[str, _Device] = {}
        self._pending: dict[str, Pod] = {}
        self._steps: dict[tuple[str, int], list[Step]] = {}
        self._dirty: set[str] = set()
        self._requests: dict[str, Requests] = {}
        self._requesting: dict[str, set[str]] = defaultdict(set)
        self._states: dict[str, NodeState] = {}
        self._new_requests: dict[str, Requests | None] = {}
        self._changed: set[str] = set()
        self._held = False

    def restart(self, known: Known, ahead: Collection[str] = ()) -> None:
        """Forget the cluster, begin with what the database knows, and keep what it has not been told.

        `ahead` names the streams that another has followed further: facts stay true, but what was the present is past.
        """
        self._restart_present(known, ahead)
        self._pods.clear()
        self._by_node.clear()
        self._devices.clear()
        pods = {pod.pod_uid: pod for pod in known.pods}
        for uid, pod in self._pending.items():
            if uid in pods:
                pods[uid] = facts.merge(pods[uid], pod)
            elif "pods" not in ahead:
                pods[uid] = pod
            # Otherwise another has seen it go: nothing would ever say so here again.
        for pod in pods.values():
            if pod.gone_by is None:
                self._keep(pod)
        contact = known.streams.get("nodes", ("", 0))[1]
        told = [step for steps in self._steps.values() for step in steps]
        for step in sorted([*known.steps, *told], key=lambda step: (step.since, step.version)):
            if step.reason != capacity.REMOVED:
                ready = step.reason != capacity.NOT_READY
                heartbeat = contact if ready else step.earliest
                node = Node(
                    step.node_uid, step.node, step.version, ready, step.since, heartbeat, step.gpu, step.gpu_type
                )
                self._devices[step.node] = _Device(node, step.since)
            elif step.node in self._devices and self._devices[step.node].node.uid == step.node_uid:
                del self._devices[step.node]
        self._dirty.update(self.nodes())

    def _restart_present(self, known: Known, ahead: Collection[str]) -> None:
        if "pods" in ahead:
            self._new_requests.clear()
        states = {} if "nodes" in ahead else {name: self._states.get(name) for name in self._changed}
        states = {state.node: state for state in known.nodes} | states
        requests = {each.pod_uid: each for each in known.requests} | self._new_requests
        self._states = {name: state for name, state in states.items() if state}
        self._requests = {uid: each for uid, each in requests.items() if each}
        self._requesting.clear()
        for uid, each in self._requests.items():
            self._requesting[each.node].add(uid)
        self._changed.update(states)

    # Pods

    def list_pods(self, items: Iterable[dict], reading: Reading) -> None:
        """The pods of now. Those that were there before and are no longer went away unseen."""
        present = set()
        for obj in items:
            present.add(obj["metadata"]["uid"])
            self.see_pod(obj, reading)
        for uid in self._pods.keys() - present:
            self._lose_pod(uid, reading)
        for uid in self._requests.keys() - present:
            self._request(uid, None)

    def see_pod(self, obj: dict, reading: Reading) -> None:
        """A pod that is there."""
        amounts = objects.requested(obj)
        self._request(obj["metadata"]["uid"], objects.observe_requests(obj, amounts))
        pod = objects.observe_pod(obj, reading.gone_after or None, amounts)
        if pod is None:
            return
        known = self._pods.get(pod.pod_uid)
        if objects.ended_without_trace(obj) and (known is None or known.gone_by is None):
            pod = replace(pod, gone_after=self._gone_after(known, reading), gone_by=reading.now)
        self._learn(pod)

    def remove_pod(self, obj: dict, reading: Reading) -> None:
        """A pod that has been removed, as it was last."""
        uid = obj["metadata"]["uid"]
        self._request(uid, None)
        pod = objects.observe_pod(obj, None)
        if pod is not None:
            known = self._pods.get(uid)
            # Kubelets older than 1.27 remove a pod without its last phase.
            pod = replace(pod, finished_at=objects.finished_at(obj))
            if pod.finished_at is None and (known is None or known.gone_by is None):
                pod = replace(pod, gone_after=self._gone_after(known, reading), gone_by=reading.now)
            self._learn(pod)
        self._drop(uid)

    def _request(self, uid: str, now: Requests | None) -> None:
        """Note what a pod takes of its node now."""
        before = self._requests.pop(uid, None)
        if now:
            self._requests[uid] = now
        if now == before:
            return
        self._new_requests[uid] = now
        for each in filter(None, (before, now)):
            self._requesting[each.node].discard(uid)
            self._changed.add(each.node)
        if now:
            self._requesting[now.node].add(uid)

    def _lose_pod(self, uid: str, reading: Reading) -> None:
        known = self._pods[uid]
        if known.gone_by is None and known.finished_at is None:
            self._learn(Pod(uid, gone_after=self._gone_after(known, reading), gone_by=reading.now))
        self._drop(uid)

    def _gone_after(self, known: Pod | None, reading: Reading) -> int:
        seen = known.last_seen_at if known and known.last_seen_at else 0
        return max(min(seen, reading.now), reading.gone_after)

    def _learn(self, pod: Pod) -> None:
        """Merge facts; what is news is pending."""
        known = self._pods.get(pod.pod_uid)
        if known is None:
            device = self._devices.get(pod.node)
            if pod.gpu and device:
                pod = replace(pod, gpu_type=device.node.gpu_type)
            merged = pod
        else:
            merged = facts.merge(known, pod)
        self._keep(merged)
        if known is None or replace(merged, last_seen_at=known.last_seen_at) != known:
            pending = self._pending.get(pod.pod_uid)
            self._pending[pod.pod_uid] = facts.merge(pending, merged) if pending else merged
            if known is None or facts.hold(merged) != facts.hold(known):
                self._held = True
                if merged.gpu:
                    self._dirty.add(merged.node)

    def _keep(self, pod: Pod) -> None:
        self._pods[pod.pod_uid] = pod
        if pod.gpu:
            self._by_node[pod.node].add(pod.pod_uid)

    def _drop(self, uid: str) -> None:
        pod = self._pods.pop(uid, None)
        if pod is not None and pod.node in self._by_node:
            self._by_node[pod.node].discard(uid)
            if not self._by_node[pod.node]:
                del self._by_node[pod.node]

    # Nodes

    def list_nodes(self, items: Iterable[dict], reading: Reading) -> None:
        """The nodes of now."""
        present = set()
        for obj in items:
            present.add(obj["metadata"]["name"])
            self.see_node(obj, reading)
        for name in self._devices.keys() - present:
            self._lose_node(name, reading)

    def see_node(self, obj: dict, reading: Reading) -> None:
        """A node that is there."""
        node = objects.observe_node(obj, reading.now)
        known = self._devices.get(node.name)
        if known is not None and known.node.uid != node.uid:
            self._lose_node(node.name, reading)
            known = None
        if known is not None and node.version <= known.node.version and not reading.listed:
            return  # A duplicate. A list may be older, too: of a database that has been restored.
        state = objects.observe_state(obj)
        if self._states.get(node.name) != state:
            self._states[node.name] = state
            self._changed.add(node.name)
        change = self._change(known.node if known else None, node, reading)
        since = known.since if known else 0
        if change is not None:
            at, earliest, latest, reason = change
            # A step never comes before the last one: of two clocks, one may be behind.
            since = max(since, at)
            self._step(node, since, min(earliest, since), max(latest, since), node.offered, reason)
        self._devices[node.name] = _Device(node, since)

    @staticmethod
    def _change(old: Node | None, new: Node, reading: Reading) -> tuple[int, int, int, str] | None:
        """(since, earliest, latest, reason) of a change of what a node offers; None if it is none."""
        ready_since, heartbeat = new.ready_since, new.heartbeat
        if not new.ready:
            if old is not None and not old.ready:
                return None
            # The last heartbeat is the node's last sign of life.
            return ready_since, heartbeat, ready_since, capacity.NOT_READY
        if old is None:
            # Since when it has had its devices is not known. They count since kubelet reported them.
            earliest = max(ready_since, reading.contact) if reading.listed else heartbeat
            return heartbeat, earliest, heartbeat, capacity.JOINED
        if not old.ready:
            # From a list it is not known whether all of its devices came back at once.
            return ready_since, ready_since, heartbeat if reading.listed else ready_since, capacity.READY
        if reading.listed and ready_since > reading.contact:
            # It was away for a part of the gap.
            return ready_since, reading.contact, heartbeat, capacity.READY
        if (new.gpu, new.gpu_type) == (old.gpu, old.gpu_type):
            return None
        if heartbeat > old.heartbeat:
            # Kubelet reports devices together with its heartbeat.
            return heartbeat, reading.contact if reading.listed else heartbeat, heartbeat, capacity.DEVICES
        # Somebody else wrote the status.
        return reading.now, reading.gone_after, reading.now, capacity.DEVICES

    def remove_node(self, obj: dict, reading: Reading) -> None:
        """A node that has been removed."""
        known = self._devices.get(obj["metadata"]["name"])
        if known is not None and known.node.uid == obj["metadata"]["uid"]:
            self._lose_node(obj["metadata"]["name"], reading)

    def _lose_node(self, name: str, reading: Reading) -> None:
        known = self._devices.pop(name)
        self._states.pop(name, None)
        self._changed.add(name)
        since = max(reading.gone_after, known.since)
        # In the second of its loss, the removal takes the place of that step: it says when there was a sign of life.
        lost = since == known.since and not known.node.ready
        earliest = min(since, known.node.heartbeat) if lost else since
        node = replace(known.node, version=known.node.version + 1)
        self._step(node, since, earliest, max(reading.now, since), 0, capacity.REMOVED)

    def _step(self, node: Node, since: int, earliest: int, latest: int, gpu: int, reason: str) -> None:
        step = Step(node.uid, since, earliest, latest, node.name, node.gpu_type, gpu, reason, node.version)
        self._steps.setdefault((node.uid, since), []).append(step)
        self._dirty.add(node.name)

    # Batches

    @property
    def news(self) -> bool:
        """Whether there is something that the ledger has not been told."""
        return bool(self._pending) or self.urgent

    @property
    def urgent(self) -> bool:
        """Whether some of it changes what is held, offered or free. The rest, as a container's start, can wait."""
        return bool(self._held or self._steps or self._dirty or self._new_requests or self._changed)

    def level(self, node: str) -> int:
        """Devices of a node that nobody holds, measured: what it offers less what its pods hold. May be below 0."""
        device = self._devices.get(node)
        level = device.node.offered if device else 0
        for uid in self._by_node.get(node, ()):
            pod = self._pods[uid]
            held = facts.hold(pod)
            if held is not None and held.until is None:
                level -= pod.gpu
        return level

    def nodes(self) -> set[str]:
        """Nodes that have devices, or pods that hold some."""
        return self._devices.keys() | self._by_node.keys()

    def _state(self, name: str) -> NodeState | None:
        """What a node has, with what the pods on it request; None if it is not there."""
        state = self._states.get(name)
        if state is None:
            return None
        taken = [self._requests[uid] for uid in self._requesting[name]]
        extended = sum((Counter(each.extended) for each in taken), Counter())
        return replace(
            state,
            requested_cpu_milli=sum(each.cpu_milli for each in taken),
            requested_memory_bytes=sum(each.memory_bytes for each in taken),
            requested_extended=dict(sorted(extended.items())),
        )

    def take(self, now: int, streams: dict[str, tuple[str, int, int]], audit: bool = False) -> Batch:
        """All that is new; with `audit`, the level of every node. `give_back` it if it could not be applied."""
        nodes = (self._dirty | self.nodes()) if audit else self._dirty
        steps = [step for steps in self._steps.values() for step in steps]
        levels = {node: self.level(node) for node in nodes if node}
        states = {name: self._state(name) for name in self._changed}
        batch = Batch(now, self._pending, steps, levels, streams, self._new_requests, states)
        self._pending, self._steps, self._dirty = {}, {}, set()
        self._new_requests, self._changed, self._held = {}, set(), False
        return batch

    def give_back(self, batch: Batch) -> None:
        """A batch that was not applied, or of which that is not known."""
        for uid, pod in batch.pods.items():
            self._pending[uid] = facts.merge(self._pending[uid], pod) if uid in self._pending else pod
        for step in batch.steps:
            self._steps.setdefault((step.node_uid, step.since), []).append(step)
        self._dirty.update(batch.levels)
        self._new_requests = batch.requests | self._new_requests
        self._changed.update(batch.nodes)
        self._held = self._held or bool(batch.pods)
