"""A cluster that knows the truth: it makes a history of pods and nodes and writes down what was held and offered when.

Everything happens at whole seconds of virtual time. The objects that it sends to the API server carry the times that
scheduler, kubelet and node controller would write.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from simulator.api_server import ApiServer

NODE_GRACE = 40  # node-monitor-grace-period
EVICTION = 300  # tolerationSeconds of the not-ready and unreachable taints
PRODUCTS = {"A100": "NVIDIA-A100-SXM4-80GB", "V100": "Tesla-V100-SXM2-32GB", "T4": "Tesla-T4"}


def text(at: int | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Node:
    uid: str
    name: str
    gpu_type: str
    devices: int
    healthy: int
    ready: bool
    ready_since: int
    heartbeat: int
    alive: bool = True
    exists: bool = True
    cordoned: bool = False

    def obj(self) -> dict:
        return {
            "kind": "Node",
            "metadata": {
                "uid": self.uid,
                "name": self.name,
                "labels": {"nvidia.com/gpu.product": PRODUCTS[self.gpu_type]} if self.devices else {},
                "creationTimestamp": text(self.ready_since),
            },
            "spec": {"unschedulable": True} if self.cordoned else {},
            "status": {
                "allocatable": {"cpu": "64", "nvidia.com/gpu": str(self.healthy), "rdma/hca": "8"},
                "capacity": {"cpu": "64", "nvidia.com/gpu": str(self.devices), "rdma/hca": "8"},
                "conditions": [
                    {
                        "type": "Ready",
                        "status": "True" if self.ready else "Unknown",
                        "lastTransitionTime": text(self.ready_since),
                        "lastHeartbeatTime": text(self.heartbeat),
                    }
                ],
            },
        }


@dataclass
class Pod:
    uid: str
    name: str
    kind: str
    username: str
    job: str
    gpu: int
    cpu_milli: int
    memory_mib: int
    created_at: int
    node: str = ""
    scheduled_at: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    restarted_at: int | None = None
    deleted_at: int | None = None
    phase: str = "Pending"
    exists: bool = True
    rdma: int = 0
    refused_at: int | None = None
    # The truth: it held its devices from scheduled_at until here.
    until: int | None = None
    # The instant of its end is in no object; who did not see it happen can only bound it.
    traceless: bool = False

    @property
    def kept(self) -> bool:
        """Whether it belongs into the ledger."""
        return self.kind != "other" or self.gpu > 0

    def obj(self) -> dict:
        labels, annotations = {}, {}
        if self.kind == "notebook":
            labels = {"component": "singleuser-server", "hub.jupyter.org/username": "slug"}
            annotations = {"hub.jupyter.org/username": self.username}
        elif self.kind == "job":
            labels = {"gpuhub.io/job": self.job}
            annotations = {"gpuhub.io/username": self.username}
        limits = {"nvidia.com/gpu": str(self.gpu)} if self.gpu else {}
        if self.rdma:
            limits["rdma/hca"] = str(self.rdma)
        requests = {"cpu": f"{self.cpu_milli}m", "memory": f"{self.memory_mib}Mi"}
        status: dict = {"phase": self.phase}
        if self.refused_at is not None:
            status["reason"] = "UnexpectedAdmissionError"
        if self.node:
            status["conditions"] = [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": text(self.scheduled_at)}
            ]
        if self.started_at is not None:
            state: dict = {"running": {"startedAt": text(self.restarted_at or self.started_at)}}
            last: dict = {}
            if self.restarted_at is not None:
                last = {"terminated": {"startedAt": text(self.started_at), "finishedAt": text(self.restarted_at)}}
            if self.finished_at is not None:
                state = {"terminated": {"startedAt": text(self.started_at), "finishedAt": text(self.finished_at)}}
            status["containerStatuses"] = [{"name": "main", "state": state, "lastState": last}]
        return {
            "kind": "Pod",
            "metadata": {
                "uid": self.uid,
                "name": self.name,
                "namespace": "jhub",
                "creationTimestamp": text(self.created_at),
                "deletionTimestamp": text(self.deleted_at),
                "labels": labels,
                "annotations": annotations,
            },
            "spec": {
                "nodeName": self.node,
                "containers": [{"name": "main", "resources": {"limits": limits, "requests": requests}}],
            },
            "status": status,
        }


@dataclass
class Told:
    """What the spawner or the job service would write into its outbox."""

    at: int
    kind: str
    pod: Pod
    exact: bool = True


class World:
    """Draws what happens; `step()` does the next thing that is due."""

    def __init__(self, server: ApiServer, chance: random.Random, begin: int, length: int) -> None:
        self._server, self._chance = server, chance
        self.now, self.end = begin, begin + length
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.nodes: dict[str, Node] = {}
        self.pods: list[Pod] = []
        self.offered: dict[str, list[tuple[int, int]]] = {}
        self.told: list[Told] = []
        self._begin_history()

    # Time

    def at(self, delay: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + delay, next(self._order), action))

    def next_at(self) -> int | None:
        return self._agenda[0][0] if self._agenda else None

    def step(self) -> None:
        self.now, _, action = heapq.heappop(self._agenda)
        action()

    def _before_the_end(self, delay: int) -> int:
        return min(delay, max(0, self.end - self.now))

    def _random_time(self) -> int:
        return self._chance.randrange(self.end - self.now)

    # History

    def _begin_history(self) -> None:
        chance = self._chance
        for index in range(chance.randint(1, 4)):
            devices = chance.choice((0, 1, 2, 4, 8))
            self._add_node(f"node-{index}", chance.choice(list(PRODUCTS)), devices, ready=True)
        for _ in range(chance.randint(3, 24)):
            self.at(self._random_time(), self._create)
        actions = ((self._lose_node, 2), (self._sicken, 2), (self._cordon, 1), (self._join, 1), (self._remove_node, 1))
        for action, most in actions:
            for _ in range(max(0, chance.randint(-1, most))):
                self.at(self._random_time(), action)

    # Nodes

    def _add_node(self, name: str, gpu_type: str, devices: int, ready: bool) -> Node:
        node = Node(
            f"{name}-uid-{next(self._order)}",
            name,
            gpu_type,
            devices,
            devices if ready else 0,
            ready,
            self.now,
            self.now,
        )
        self.nodes[name] = node
        self._show(node)
        self._beat_later(node)
        return node

    def _show(self, node: Node) -> None:
        """Send the object, and note what the node offers from now on."""
        if node.exists:
            self._server.put("nodes", node.obj())
        level = node.healthy if node.ready and node.exists else 0
        history = self.offered.setdefault(node.name, [])
        if not history or history[-1][1] != level:
            history.append((self.now, level))

    def _beat_later(self, node: Node) -> None:
        def beat() -> None:
            if node.exists and node.alive and node.ready:
                node.heartbeat = self.now
                self._show(node)
            if node.exists:
                self.at(300, beat)

        self.at(300, beat)

    def _drawn_node(self) -> Node | None:
        nodes = [node for node in self.nodes.values() if node.exists and node.alive and node.ready]
        return self._chance.choice(nodes) if nodes else None

    def _join(self) -> None:
        node = self._add_node(f"node-new-{next(self._order)}", "A100", 4, ready=False)

        def ready() -> None:
            node.ready, node.ready_since, node.heartbeat = True, self.now, self.now
            self._show(node)

        def devices() -> None:
            node.healthy, node.heartbeat = node.devices, self.now
            self._show(node)

        self.at(7, ready)
        self.at(7 + self._chance.randrange(60), devices)

    def _sicken(self) -> None:
        """Devices get unhealthy, held or not, and perhaps well again."""
        node = self._drawn_node()
        if node is None or not node.healthy:
            return
        node.healthy, node.heartbeat = self._chance.randrange(node.healthy), self.now
        self._show(node)

        def recover() -> None:
            if node.exists and node.alive and node.ready:
                node.healthy, node.heartbeat = node.devices, self.now
                self._show(node)

        if self._chance.random() < 0.7:
            self.at(self._chance.randint(1, 900), recover)

    def _cordon(self) -> None:
        """An administrator lets no new pods on a node, perhaps for a while."""
        node = self._drawn_node()
        if node is None:
            return

        def set_to(cordoned: bool) -> None:
            node.cordoned = cordoned
            self._show(node)

        set_to(True)
        if self._chance.random() < 0.5:
            self.at(self._chance.randint(1, 900), lambda: set_to(False))

    def _remove_node(self) -> None:
        """An administrator removes a node that is at work; its pods are deleted with it."""
        node = self._drawn_node()
        if node is not None and len(self.nodes) > 1:
            self._delete_node(node, self.now)

    def _delete_node(self, node: Node, lost_at: int) -> None:
        node.exists = False
        self._server.delete("nodes", node.uid)
        self._show(node)
        for pod in self._on(node):
            pod.until, pod.traceless = lost_at, True
            # Before the history ends: of pods that are there the ledger cannot know that they hold nothing.
            self.at(self._before_the_end(self._chance.randint(0, 20)), lambda pod=pod: self._collect(pod))

    def _collect(self, pod: Pod) -> None:
        """The garbage collector gives a pod up that has no node."""
        if not pod.exists:
            return
        if self._chance.random() < 0.5 and pod.phase not in ("Succeeded", "Failed"):
            pod.phase = "Failed"
            self._put(pod)
        self._delete(pod)

    def _lose_node(self) -> None:
        """A node crashes or is cut off. It comes back, or its pods are given up."""
        node = self._drawn_node()
        if node is None:
            return
        lost_at = self.now
        node.alive = False
        back = self._chance.choice((20, 100, 200, 500, 900, None, None))
        rebooted = self._chance.random() < 0.5

        def mark() -> None:
            if not node.alive and node.exists:
                node.ready, node.ready_since = False, self.now
                self._show(node)

        def give_up() -> None:
            if node.alive or not node.exists:
                return
            if self._chance.random() < 0.5:
                self._delete_node(node, lost_at)
                return
            for pod in self._on(node):
                pod.until, pod.traceless = lost_at, True
                self._delete(pod)

        def come_back() -> None:
            if not node.exists:
                return
            node.alive, node.heartbeat = True, self.now
            if not node.ready:
                node.ready, node.ready_since = True, self.now
            self._show(node)
            for pod in self._on(node):
                self._return(pod, lost_at, rebooted)

        self.at(NODE_GRACE, mark)
        if back is None:
            self.at(NODE_GRACE + EVICTION + self._chance.randrange(300), give_up)
        else:
            self.at(back, come_back)

    def _return(self, pod: Pod, lost_at: int, rebooted: bool) -> None:
        """What kubelet says about a pod when it can speak again."""
        if not rebooted:
            if pod.started_at is not None and self._chance.random() < 0.3:
                self._finish(pod, self._chance.randint(max(lost_at, pod.started_at), self.now))
            elif pod.deleted_at is not None:
                self._terminate(pod)
        elif self._chance.random() < 0.5 and pod.started_at is not None:
            pod.restarted_at = self.now
            self._put(pod)
        else:
            # Kubelet knows nothing about its containers any more.
            pod.phase, pod.started_at = "Failed", None
            pod.until, pod.traceless = self.now, True
            self._put(pod)
            self.at(self._chance.randrange(100), lambda: self._delete(pod))

    def _on(self, node: Node) -> list[Pod]:
        """Pods on a node that hold something."""
        return [
            pod for pod in self.pods
            if pod.node == node.name and pod.exists and pod.until is None and pod.scheduled_at is not None
        ]  # fmt: skip

    # Pods

    def _put(self, pod: Pod) -> None:
        if pod.exists:
            self._server.put("pods", pod.obj())

    def _delete(self, pod: Pod) -> None:
        if pod.exists:
            pod.exists = False
            self._server.delete("pods", pod.uid)

    def _create(self) -> None:
        chance, index = self._chance, len(self.pods)
        kind = chance.choice(("notebook", "notebook", "job", "other"))
        pod = Pod(
            uid=f"pod-uid-{index}",
            name=f"pod-{index}",
            kind=kind,
            username=chance.choice(("alice", "bob", "carol")),
            job=f"job-{index // 2}" if kind == "job" else "",
            gpu=chance.choice((0, 1, 1, 2, 4)),
            cpu_milli=chance.choice((500, 1000, 7777)),
            memory_mib=chance.choice((1, 1024, 4000)),
            created_at=self.now,
        )
        pod.rdma = chance.choice((0, 0, 0, 1))
        if kind == "job":
            pod.username = f"user-of-{pod.job}"
        elif kind == "other":
            pod.username = ""
        self.pods.append(pod)
        self._put(pod)
        self.at(chance.choice((0, 0, 1, 30)), lambda: self._schedule(pod))

    def _free(self, node: Node) -> int:
        """As the scheduler sees it: pods count until their phase says otherwise or they are gone."""
        held = sum(
            pod.gpu for pod in self.pods
            if pod.node == node.name and pod.exists and pod.phase not in ("Succeeded", "Failed")
        )  # fmt: skip
        return node.healthy - held

    def _schedule(self, pod: Pod) -> None:
        nodes = [
            node for node in self.nodes.values()
            if node.exists and node.ready and node.alive and not node.cordoned and self._free(node) >= pod.gpu
        ]  # fmt: skip
        if not nodes:
            self._delete(pod)
            return
        pod.node, pod.scheduled_at = self._chance.choice(nodes).name, self.now
        self._put(pod)
        self._tell("start", pod, self.now)
        if self._chance.random() < 0.1:
            self.at(self._chance.choice((0, 1, 20)), lambda: self._refuse(pod))
        self.at(self._chance.choice((0, 1, 5, 200)), lambda: self._start(pod))
        ends = (self._stop, self._stop, self._stop, self._complete, self._complete, self._force, self._evict)
        self.at(self._chance.choice((3, 10, 60, 600, 2000, 9000)), lambda: self._chance.choice(ends)(pod))

    def _acts(self, pod: Pod) -> bool:
        """Whether its kubelet can do something about it."""
        node = self.nodes.get(pod.node)
        return bool(pod.exists and pod.until is None and node and node.exists and node.alive)

    def _start(self, pod: Pod) -> None:
        if self._acts(pod) and pod.deleted_at is None and pod.phase == "Pending":
            pod.started_at, pod.phase = self.now, "Running"
            self._put(pod)
            if self._chance.random() < 0.2:
                self.at(self._chance.randrange(1, 300), lambda: self._crash(pod))

    def _crash(self, pod: Pod) -> None:
        """A container crashes and is started again: the pod keeps its devices."""
        if self._acts(pod) and pod.finished_at is None:
            pod.restarted_at = self.now
            self._put(pod)

    def _stop(self, pod: Pod) -> None:
        if not pod.exists or pod.until is not None:
            return
        pod.deleted_at = self.now
        self._put(pod)
        self.at(self._chance.choice((0, 1, 30)), lambda: self._terminate(pod))

    def _terminate(self, pod: Pod) -> None:
        if not self._acts(pod):
            return
        if pod.started_at is None:
            # Nothing ran, so nothing says when it ended; its removal does.
            pod.until, pod.traceless = self.now, True
            self._delete(pod)
            self._tell("stop", pod, self.now)
            return
        self._finish(pod, self.now, old_kubelet=self._chance.random() < 0.2)
        # Before the history ends: what an old kubelet says of an end counts only when the pod is gone.
        self.at(self._before_the_end(self._chance.choice((0, 1, 2))), lambda: self._delete(pod))

    def _complete(self, pod: Pod) -> None:
        if self._acts(pod) and pod.started_at is not None:
            self._finish(pod, self.now)
            self.at(self._chance.choice((0, 60, 4000)), lambda: self._delete(pod))

    def _finish(self, pod: Pod, at: int, old_kubelet: bool = False) -> None:
        pod.finished_at = pod.until = at
        if not old_kubelet:
            pod.phase = "Succeeded"
        self._put(pod)
        self._tell("stop", pod, at)

    def _force(self, pod: Pod) -> None:
        """kubectl delete --force"""
        if self._acts(pod):
            pod.until, pod.traceless = self.now, True
            self._delete(pod)
            self._tell("stop", pod, self.now)

    def _evict(self, pod: Pod) -> None:
        """Kubelet refuses or evicts it before anything ran."""
        if self._acts(pod) and pod.started_at is None:
            pod.until, pod.traceless, pod.phase = self.now, True, "Failed"
            self._put(pod)
            self._tell("stop", pod, self.now)
            self.at(self._chance.randrange(600), lambda: self._delete(pod))

    def _refuse(self, pod: Pod) -> None:
        """Kubelet does not let it in: its devices are not registered yet, or sick."""
        if self._acts(pod) and pod.started_at is None and pod.deleted_at is None:
            pod.refused_at, pod.phase = self.now, "Failed"
            pod.until = pod.scheduled_at
            self._put(pod)
            self._tell("stop", pod, self.now)
            self.at(self._chance.randrange(600), lambda: self._delete(pod))

    def _tell(self, kind: str, pod: Pod, at: int) -> None:
        # Nobody tells of pods that are no notebooks and no jobs.
        if pod.kind == "other":
            return
        if kind == "stop" and self._chance.random() < 0.3:
            # Found out some time later: it is known that it has ended, and not when.
            self.at(self._chance.randrange(100), lambda: self.told.append(Told(self.now, kind, pod, exact=False)))
        else:
            self.told.append(Told(at, kind, pod))
