"""From objects to batches, without a network or a database."""

from __future__ import annotations

import copy

import pytest
from gpuhub_portal.collector.view import Reading, View
from gpuhub_portal.ledger.capacity import Step
from gpuhub_portal.ledger.facts import Pod
from gpuhub_portal.ledger.objects import NodeState, Requests, session_id
from gpuhub_portal.ledger.store import Known
from simulator.clock import EPOCH as T
from simulator.world import text


def _pod(uid: str = "p", version: int = 5, **status) -> dict:
    return {
        "metadata": {
            "uid": uid,
            "name": "jupyter-alice-b---9f5eb4f1",
            "namespace": "jhub",
            "resourceVersion": str(version),
            "creationTimestamp": text(T),
            "labels": {
                "component": "singleuser-server",
                "hub.jupyter.org/username": "alice-b---9f5eb4f1",
                "hub.jupyter.org/servername": "",
                "gpuhub.io/reservation": "r-1",
            },
            "annotations": {"hub.jupyter.org/username": "alice@b"},
        },
        "spec": {
            "nodeName": "n",
            "containers": [
                {"name": "main", "resources": {"limits": {"nvidia.com/gpu": "2", "cpu": "2", "memory": "4Gi"}}}
            ],
        },
        "status": {
            "phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": text(T + 3)}],
            **status,
        },
    }


def _state(**state) -> dict:
    return {"containerStatuses": [{"name": "main", "state": state}]}


def _node(
    version: int = 1, gpu: int = 4, ready: str = "True", since: int = T, heartbeat: int = T, uid: str = "u"
) -> dict:
    return {
        "metadata": {
            "uid": uid,
            "name": "n",
            "resourceVersion": str(version),
            "creationTimestamp": text(T),
            "labels": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"},
        },
        "status": {
            "allocatable": {"nvidia.com/gpu": str(gpu)},
            "conditions": [
                {
                    "type": "Ready",
                    "status": ready,
                    "lastTransitionTime": text(since),
                    "lastHeartbeatTime": text(heartbeat),
                }
            ],
        },
    }


def _live(at: int) -> Reading:
    return Reading(T + at, T + at - 1, live=True)


def _late(at: int, contact: int) -> Reading:
    return Reading(T + at, T + contact)


def _list(at: int, contact: int) -> Reading:
    return Reading(T + at, T + contact, listed=True)


def _facts(view: View, uid: str = "p") -> Pod:
    return view.take(T, {}).pods[uid]


def test_facts_of_a_notebook():
    view = View()
    view.see_node(_node(), _live(1))
    view.see_pod(_pod(), _live(4))
    assert _facts(view) == Pod(
        "p",
        namespace="jhub",
        pod="jupyter-alice-b---9f5eb4f1",
        username="alice@b",
        kind="notebook",
        session_id=session_id("notebook", "jhub", "p", ""),
        reservation="r-1",
        node="n",
        gpu_type="A100",
        gpu=2,
        cpu_milli=2000,
        memory_bytes=4 << 30,
        created_at=T,
        scheduled_at=T + 3,
        last_seen_at=T + 4,
    )


def test_what_is_not_news_is_not_written():
    view = View()
    view.see_pod(_pod(), _live(4))
    view.take(T, {})
    view.see_pod(_pod(version=6, message="new"), _live(9))
    assert not view.news


def test_what_changes_no_interval_can_wait():
    """A start can be written with what comes next, a beginning and an end cannot."""
    view = View()
    urgent = []
    running = _pod(version=6, **_state(running={"startedAt": text(T + 10)}))
    finished = _pod(
        version=7,
        phase="Succeeded",
        **_state(terminated={"startedAt": text(T + 10), "finishedAt": text(T + 20)}),
    )
    for at, obj in ((3, _pod()), (10, running), (20, finished)):
        view.see_pod(obj, _live(at))
        urgent.append((view.urgent, view.news))
        batch = view.take(T + at, {})
        assert list(batch.pods) == ["p"]
        assert not view.urgent
    assert urgent == [(True, True), (False, True), (True, True)]
    view.give_back(batch)
    assert view.urgent


def test_a_notebook_without_devices_is_as_urgent():
    """Its end changes no node's level, but what it held."""
    view, pod = View(), _pod()
    pod["spec"]["containers"][0]["resources"] = {}
    view.see_pod(pod, _live(3))
    assert view.urgent
    view.take(T + 3, {})
    ended = {**pod, "status": {**pod["status"], "phase": "Failed"}}
    view.see_pod({**ended, "metadata": {**pod["metadata"], "resourceVersion": "6"}}, _live(5))
    view.take(T + 5, {})
    late = {**ended["status"], **_state(terminated={"startedAt": text(T + 3), "finishedAt": text(T + 4)})}
    view.see_pod({**ended, "status": late}, _live(6))
    assert view.urgent


def test_system_pods_without_gpu_are_not_kept():
    view = View()
    pod = _pod()
    pod["metadata"]["labels"] = {}
    pod["spec"]["containers"] = [{"resources": {"requests": {"cpu": "1"}}}]
    view.see_pod(pod, _live(4))
    assert not view.take(T, {}).pods
    pod["spec"]["containers"] = [{"name": "main", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]
    view.see_pod(pod, _live(4))
    assert _facts(view).kind == "other"


def test_times_of_containers():
    view = View()
    view.see_pod(_pod(phase="Running", **_state(running={"startedAt": text(T + 20)})), _live(21))
    assert (_facts(view).started_at, view.level("n")) == (T + 20, -2)
    ended = {"startedAt": text(T + 20), "finishedAt": text(T + 70)}
    view.see_pod(_pod(phase="Running", **_state(terminated=ended)), _live(71))
    assert not view.news, "kubelet may start it again"
    view.see_pod(_pod(phase="Failed", **_state(terminated=ended)), _live(72))
    assert (_facts(view).finished_at, view.level("n")) == (T + 70, 0)


@pytest.mark.parametrize(
    ("reading", "gone"),
    [(_live(90), (T + 90, T + 90)), (_late(90, 40), (T + 40, T + 90)), (_late(90, 5), (T + 10, T + 90))],
)
def test_removed_without_a_trace(reading, gone):
    view = View()
    view.see_pod(_pod(), _live(10))
    view.take(T, {})
    view.remove_pod(_pod(), reading)
    pod = _facts(view)
    assert (pod.gone_after, pod.gone_by) == gone


def test_removed_by_an_old_kubelet_in_phase_running():
    view = View()
    ended = {"startedAt": text(T + 20), "finishedAt": text(T + 70)}
    view.see_pod(_pod(phase="Running", **_state(terminated=ended)), _live(71))
    view.remove_pod(_pod(phase="Running", **_state(terminated=ended)), _late(90, 30))
    pod = _facts(view)
    assert (pod.finished_at, pod.gone_by) == (T + 70, None)


@pytest.mark.parametrize(
    ("reading", "gone"),
    [(_live(50), (T + 50, T + 50)), (_late(50, 40), (T + 40, T + 50)), (_late(50, 5), (T + 10, T + 50))],
)
def test_evicted_before_anything_ran(reading, gone):
    view = View()
    view.see_pod(_pod(), _live(10))
    view.see_pod(_pod(phase="Failed", reason="Evicted"), reading)
    pod = _facts(view)
    assert (pod.gone_after, pod.gone_by) == gone
    view.remove_pod(_pod(phase="Failed"), _live(500))
    assert not view.news, "it held nothing since"


def test_refused_by_its_kubelet():
    view = View()
    view.see_node(_node(), _live(1))
    view.see_pod(_pod(), _live(10))
    assert view.level("n") == 2
    view.see_pod(_pod(phase="Failed", reason="UnexpectedAdmissionError"), _live(11))
    batch = view.take(T, {})
    assert (batch.pods["p"].refused, batch.levels) == ("UnexpectedAdmissionError", {"n": 4})
    assert batch.requests == {"p": None}


def test_gone_from_a_list():
    view = View()
    view.see_pod(_pod("p"), _live(10))
    view.see_pod(_pod("q"), _live(10))
    view.take(T, {})
    view.list_pods([_pod("q")], _list(300, 200))
    batch = view.take(T, {})
    assert list(batch.pods) == ["p"]
    assert (batch.pods["p"].gone_after, batch.pods["p"].gone_by) == (T + 200, T + 300)
    assert view.level("n") == -2


def _steps(view: View) -> list[tuple]:
    return [(s.since - T, s.earliest - T, s.latest - T, s.gpu, s.reason) for s in view.take(T, {}).steps]


def test_steps_of_a_node_as_they_happen():
    view = View()
    view.see_node(_node(1, gpu=0, ready="False", since=T + 1, heartbeat=T + 1), _live(1))
    view.see_node(_node(2, gpu=0, since=T + 5, heartbeat=T + 5), _live(5))
    view.see_node(_node(3, gpu=4, since=T + 5, heartbeat=T + 9), _live(9))
    view.see_node(_node(4, gpu=4, since=T + 5, heartbeat=T + 99), _live(99))
    view.see_node(_node(5, gpu=4, ready="Unknown", since=T + 140, heartbeat=T + 99), _live(140))
    assert view.level("n") == 0
    view.see_node(_node(6, gpu=4, since=T + 200, heartbeat=T + 200), _live(200))
    view.see_node(_node(7, gpu=3, since=T + 200, heartbeat=T + 230), _live(230))
    view.remove_node(_node(8), _live(300))
    assert _steps(view) == [
        (1, 1, 1, 0, "not_ready"),
        (5, 5, 5, 0, "ready"),
        (9, 9, 9, 4, "devices"),
        (140, 99, 140, 0, "not_ready"),
        (200, 200, 200, 4, "ready"),
        (230, 230, 230, 3, "devices"),
        (300, 300, 300, 0, "removed"),
    ]


def test_a_lost_node_whose_removal_was_seen():
    view = View()
    view.see_node(_node(1, heartbeat=T + 10), _live(10))
    view.see_node(_node(2, ready="Unknown", since=T + 50, heartbeat=T + 10), _live(50))
    view.remove_node(_node(2), _live(300))
    assert _steps(view)[-2:] == [(50, 10, 50, 0, "not_ready"), (300, 300, 300, 0, "removed")]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_lost_node_whose_removal_was_not_seen(restarted):
    """As nobody saw when it went, it was removed when it was lost; the last sign of life stays what it was."""
    view = View()
    view.see_node(_node(1, heartbeat=T + 10), _live(10))
    view.see_node(_node(2, ready="Unknown", since=T + 50, heartbeat=T + 10), _live(50))
    lost = view.take(T + 50, {}).steps[-1]
    assert (lost.since, lost.earliest, lost.reason) == (T + 50, T + 10, "not_ready")
    if restarted:
        view = View()
        view.restart(Known([], [lost], {"nodes": ("2", T + 45)}))
    view.remove_node(_node(2), _late(200, 45))
    (removed,) = view.take(T + 200, {}).steps
    assert (removed.since, removed.earliest, removed.latest, removed.reason) == (T + 50, T + 10, T + 200, "removed")


def test_events_that_come_twice_or_late_are_no_steps():
    view = View()
    view.see_node(_node(3, gpu=4), _live(9))
    view.take(T, {})
    view.see_node(_node(2, gpu=0), _live(10))
    view.see_node(_node(3, gpu=4), _live(10))
    assert not view.news


def test_devices_that_kubelet_did_not_report():
    """A status that was patched by hand: the heartbeat is an old one."""
    view = View()
    view.see_node(_node(1, gpu=0, heartbeat=T), _live(0))
    view.take(T, {})
    view.see_node(_node(2, gpu=4, heartbeat=T), _live(60))
    view.see_node(_node(3, gpu=5, heartbeat=T), _late(90, 70))
    assert _steps(view) == [(60, 60, 60, 4, "devices"), (90, 70, 90, 5, "devices")]


def test_steps_that_a_list_finds_carry_bounds():
    view = View()
    view.list_nodes([_node(1, heartbeat=T)], _list(1, -T))
    assert _steps(view) == [(0, 0, 0, 4, "joined")]
    view.list_nodes([_node(5, gpu=3, heartbeat=T + 290)], _list(300, 100))
    assert _steps(view) == [(290, 100, 290, 3, "devices")]
    view.list_nodes([_node(9, gpu=3, since=T + 450, heartbeat=T + 460)], _list(500, 400))
    assert _steps(view) == [(450, 400, 460, 3, "ready")], "it was away for a while"
    view.list_nodes([_node(12, gpu=3, uid="u2", since=T + 650, heartbeat=T + 660)], _list(700, 600))
    assert _steps(view) == [(600, 600, 700, 0, "removed"), (660, 650, 660, 3, "joined")], "another machine of that name"
    view.list_nodes([], _list(900, 800))
    assert _steps(view) == [(800, 800, 900, 0, "removed")]


def _system_pod(uid: str, node: str = "n", phase: str = "Running", **requests: str) -> dict:
    return {
        "metadata": {"uid": uid, "name": uid, "namespace": "kube-system"},
        "spec": {"nodeName": node, "containers": [{"name": "main", "resources": {"requests": requests}}]},
        "status": {"phase": phase},
    }


def _requested(view: View) -> tuple:
    state = view.take(T, {}).nodes["n"]
    return state.requested_cpu_milli, state.requested_memory_bytes >> 30, dict(state.requested_extended)


def test_what_all_pods_on_a_node_request():
    view = View()
    view.see_node(_node(), _live(1))
    view.see_pod(_pod(), _live(4))
    view.see_pod(_system_pod("s", cpu="500m", **{"rdma/hca": "2"}), _live(5))
    view.see_pod(_system_pod("elsewhere", "m", cpu="7"), _live(5))
    assert _requested(view) == (2500, 4, {"rdma/hca": 2})
    view.see_pod(_system_pod("s", cpu="500m", **{"rdma/hca": "2"}), _live(6))
    assert not view.news
    view.see_pod(_system_pod("s", phase="Succeeded", cpu="500m"), _live(7))
    assert _requested(view) == (2000, 4, {})
    view.list_pods([_system_pod("t", cpu="1")], _list(9, 8))
    assert _requested(view) == (1000, 0, {})
    view.remove_pod(_system_pod("t", cpu="1"), _live(10))
    batch = view.take(T, {})
    assert (batch.nodes["n"].requested_cpu_milli, batch.requests) == (0, {"t": None})


def test_what_a_node_has_now():
    view = View()
    node = _node()
    node["spec"] = {
        "unschedulable": True,
        "taints": [{"key": "k", "effect": "NoSchedule"}, {"key": "l", "effect": "?"}],
    }
    node["status"]["capacity"] = {"nvidia.com/gpu": "5"}
    node["status"]["allocatable"] |= {"cpu": "7500m", "memory": "8Gi", "rdma/hca": "63", "ephemeral-storage": "1Gi"}
    view.see_node(node, _live(1))
    state = view.take(T, {}).nodes["n"]
    assert state == NodeState(
        *("n", "u", "NVIDIA-A100-SXM4-80GB", "A100"),
        *(5, 4, 7500, 8 << 30, True, False),
        taints=[{"key": "k", "effect": "NoSchedule"}],
        extended={"rdma/hca": 63},
    )
    node["metadata"]["resourceVersion"] = "2"
    node["status"]["conditions"][0]["lastHeartbeatTime"] = text(T + 60)
    view.see_node(node, _live(60))
    assert not view.news, "a heartbeat is no news"
    view.remove_node(node, _live(61))
    assert view.take(T, {}).nodes == {"n": None}


def test_the_present_begins_where_it_is_known_best():
    """Of a view that goes on, and of the database, the one that has followed a stream further."""

    def seen() -> View:
        view = View()
        view.see_node(_node(5, gpu=3), _live(1))
        view.see_pod(_system_pod("mine", cpu="1"), _live(1))
        return view

    theirs = NodeState("n", "u", "NVIDIA-A100-SXM4-80GB", "A100", 0, 2, 0, 0, True, True)
    known = Known([], [], {}, [Requests("mine", "n", 5000, 0), Requests("theirs", "n", 300, 0)], [theirs])
    cases = {(): (3, 1300), ("pods",): (3, 5300), ("nodes",): (2, 1300), ("pods", "nodes"): (2, 5300)}
    for ahead, expected in cases.items():
        view = seen()
        view.restart(known, ahead)
        state = view.take(T, {}).nodes["n"]
        assert (state.gpu, state.requested_cpu_milli) == expected, ahead


def test_what_could_not_be_written_is_written_later():
    view = View()
    view.see_node(_node(), _live(0))
    view.see_pod(_pod(), _live(4))
    batch = view.take(T, {})
    ended = {"startedAt": text(T + 20), "finishedAt": text(T + 70)}
    view.see_pod(_pod(phase="Failed", **_state(terminated=ended)), _live(72))
    view.give_back(copy.deepcopy(batch))
    again = view.take(T, {})
    assert again.steps == batch.steps
    assert (again.pods["p"].scheduled_at, again.pods["p"].finished_at) == (T + 3, T + 70)
    assert again.levels == {"n": 4}
    assert again.requests == {"p": None}
    assert again.nodes["n"].requested_cpu_milli == 0


def test_what_could_not_be_written_is_taken_again():
    view = View()
    view.see_node(_node(), _live(0))
    view.see_pod(_system_pod("old", cpu="1"), _live(1))
    view.see_pod(_system_pod("changes", cpu="1"), _live(1))
    batch = view.take(T, {})
    view.see_pod(_system_pod("changes", cpu="2"), _live(2))
    view.give_back(batch)
    again = view.take(T, {})
    assert {uid: each.cpu_milli for uid, each in again.requests.items()} == {"old": 1000, "changes": 2000}
    assert again.nodes["n"].requested_cpu_milli == 3000
    view.give_back(again)
    assert view.take(T, {}) == again


def test_memory_does_not_grow_with_events():
    """While the database is away, a thousand events of a pod and of a node are one entry, or none."""
    view = View()
    for index in range(1000):
        view.see_node(_node(index + 1, heartbeat=T + index), _live(index))
        started = _state(running={"startedAt": text(T + 20 + index)})
        view.see_pod(_pod(version=index, phase="Running", **started), _live(index))
    batch = view.take(T, {})
    assert (len(batch.pods), len(batch.steps)) == (1, 1)


def test_begins_where_the_database_is():
    view = View()
    held = Pod("p", node="n", gpu=2, scheduled_at=T)
    ended = Pod("q", node="n", gpu=1, scheduled_at=T)
    step = Step("u", T, T, T, "n", "A100", 4, "ready", 7)
    view.see_pod(_pod("q"), _live(1))
    view.remove_pod(_pod("q"), _live(5))
    view.restart(Known([held, ended], [step], {"nodes": ("7", T + 50)}))
    assert view.level("n") == 2
    view.see_node(_node(7), _live(60))
    assert not view.take(T, {}).steps
    view.list_pods([], _list(90, 50))
    assert set(view.take(T, {}).pods) == {"p"}, "what had ended is not gone a second time"
