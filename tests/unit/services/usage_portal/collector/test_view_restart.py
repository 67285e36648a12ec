"""What a collector knows when it begins to lead: the database's knowledge, and its own that it has not written."""

from __future__ import annotations

import pytest
import service_imports  # noqa: F401
from gpuhub_portal.collector.view import Reading, View
from gpuhub_portal.ledger.capacity import Step
from gpuhub_portal.ledger.facts import Pod
from gpuhub_portal.ledger.store import Known
from simulator.world import Node
from simulator.world import Pod as Started

T = 1_790_000_400


def _pod(uid: str, node: str = "n", gpu: int = 2, **columns) -> dict:
    pod = Started(uid, uid, "notebook", "alice", "", gpu, 1000, 1024, created_at=T)
    pod.node, pod.scheduled_at = node, T + 3
    for name, value in columns.items():
        setattr(pod, name, value)
    return pod.obj() | {"metadata": pod.obj()["metadata"] | {"resourceVersion": "5"}}


def _node(version: int, healthy: int = 4, heartbeat: int = T, uid: str = "u") -> dict:
    obj = Node(uid, "n", "A100", 4, healthy, True, T, heartbeat).obj()
    obj["metadata"]["resourceVersion"] = str(version)
    return obj


def _step(since: int, gpu: int, reason: str = "joined", version: int = 1, uid: str = "u") -> Step:
    return Step(uid, T + since, T + since, T + since, "n", "A100", gpu, reason, version)


def _live(at: int) -> Reading:
    return Reading(T + at, T + at - 1, live=True)


def _list(at: int, contact: int) -> Reading:
    return Reading(T + at, T + contact, listed=True)


def test_what_was_not_written_joins_what_the_database_knows():
    view = View()
    view.see_pod(_pod("p"), _live(4))
    view.see_pod(_pod("new"), _live(4))
    view.restart(Known([Pod("p", node="n", gpu=2, scheduled_at=T + 3, witness_start=T + 2)], [], {}))
    assert view.level("n") == -4
    view.see_pod(_pod("p", phase="Succeeded", started_at=T + 4, finished_at=T + 8), _live(9))
    pods = view.take(T, {}).pods
    assert (pods["p"].witness_start, pods["p"].finished_at) == (T + 2, T + 8)
    assert pods["new"].scheduled_at == T + 3
    assert view.level("n") == -2


@pytest.mark.parametrize(("ahead", "level"), [([], -2), (["nodes"], -2), (["pods"], 0)])
def test_what_another_leader_has_seen_go_is_not_there(ahead, level):
    """Seed 107208 of the simulator: what was seen of it before is still told, and nothing will say that it is gone."""
    view = View()
    view.see_pod(_pod("p"), _live(4))
    view.restart(Known([], [], {}), ahead)
    assert view.level("n") == level
    assert view.take(T, {}).pods["p"].scheduled_at == T + 3


def test_the_latest_step_counts_whoever_has_it():
    view = View()
    view.see_node(_node(1), _live(0))
    view.take(T, {})
    view.see_node(_node(5, healthy=2, heartbeat=T + 50), _live(50))
    view.restart(Known([], [_step(80, 3, "devices", 9)], {}))
    assert view.level("n") == 3
    assert [step.since for step in view.take(T, {}).steps] == [T + 50], "what was not written is written still"


@pytest.mark.parametrize(
    ("steps", "level"),
    [
        ([_step(0, 4)], 4),
        ([_step(0, 0, "not_ready")], 0),
        ([_step(0, 4), _step(10, 0, "removed", 2)], 0),
        ([_step(10, 0, "removed", 2)], 0),
        # A node of the same name has joined before it was noticed that the first was gone.
        ([_step(5, 4, uid="second"), _step(10, 0, "removed", 2)], 4),
    ],
)
def test_nodes_are_as_their_steps_say(steps, level):
    view = View()
    view.restart(Known([], steps, {}))
    assert view.level("n") == level
    assert view.take(T, {}).levels == ({"n": level} if "n" in view.nodes() else {})


def test_a_node_that_is_gone_is_known_by_its_last_step():
    view = View()
    view.restart(Known([], [_step(0, 4, version=7)], {"nodes": ("7", T + 50)}))
    view.list_nodes([], _list(90, 50))
    assert view.take(T, {}).steps == [Step("u", T + 50, T + 50, T + 90, "n", "A100", 0, "removed", 8)]


@pytest.mark.parametrize(
    ("heartbeat", "streams", "since"),
    [
        (60, {"nodes": ("7", T + 50)}, 60),
        # Kubelet has reported nothing since all was known: somebody else wrote the status.
        (40, {"nodes": ("7", T + 50)}, 90),
        (40, {"pods": ("7", T + 50)}, 40),
    ],
)
def test_devices_that_changed_since_all_was_known(heartbeat, streams, since):
    view = View()
    view.restart(Known([], [_step(0, 4, version=7)], streams))
    view.see_node(_node(9, healthy=1, heartbeat=T + heartbeat), _live(90))
    (step,) = view.take(T, {}).steps
    assert (step.since, step.gpu, step.reason) == (T + since, 1, "devices")


def test_a_pod_is_gone_no_sooner_than_it_was_seen():
    """Its last sign may be newer than the stream's."""
    view = View()
    view.see_pod(_pod("p"), _live(80))
    view.take(T, {})
    view.list_pods([], _list(90, 50))
    gone = view.take(T, {}).pods["p"]
    assert (gone.gone_after, gone.gone_by) == (T + 80, T + 90)
    assert view.nodes() == set(), "nothing is left of it"


def test_a_pod_that_had_finished_is_not_gone():
    view = View()
    view.see_pod(_pod("p", phase="Succeeded", started_at=T + 4, finished_at=T + 8), _live(9))
    view.take(T, {})
    view.list_pods([], _list(90, 50))
    assert view.take(T, {}).pods == {}


def test_a_node_removed_twice_is_another():
    """What is told of an earlier node of the same name does not concern the one that is there."""
    view = View()
    view.see_node(_node(5, uid="second"), _live(0))
    view.take(T, {})
    view.remove_node(_node(3, uid="first"), _live(1))
    assert view.level("n") == 4 and view.take(T, {}).steps == []
    view.remove_node(_node(6, uid="second"), _live(2))
    assert [step.reason for step in view.take(T, {}).steps] == ["removed"]
    view.remove_node(_node(6, uid="second"), _live(3))
    assert view.take(T, {}).steps == []


def test_a_batch_says_when_it_was_taken_and_how_far_each_stream_is():
    view, streams = View(), {"pods": ("7", T + 1, T + 2)}
    view.see_node(_node(1), _live(0))
    batch = view.take(T + 9, streams)
    assert (batch.now, batch.streams, batch.levels) == (T + 9, streams, {"n": 4})
    assert (view.take(T, {}).levels, view.take(T, {}, audit=True).levels) == ({}, {"n": 4})
    view.remove_node(_node(2), _live(10))
    assert view.take(T, {}).levels == {"n": 0}
