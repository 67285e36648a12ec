"""Whether workloads are rolled out, by recorded shapes of their status."""

from __future__ import annotations

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import kube_rollout as kr

SEEN = {"observedGeneration": 1}
# What a Deployment, a StatefulSet and a DaemonSet of some pods report: wanted, with the latest definition, ready.


def deployment(pods: int, updated: int, available: int) -> dict[str, int]:
    return {**SEEN, "replicas": pods, "updatedReplicas": updated, "availableReplicas": available}


def stateful_set(pods: int, updated: int, ready: int) -> dict[str, int]:
    return {**SEEN, "replicas": pods, "updatedReplicas": updated, "readyReplicas": ready}


def daemon_set(pods: int, updated: int, available: int) -> dict[str, int]:
    return {
        **SEEN, "desiredNumberScheduled": pods, "updatedNumberScheduled": updated, "numberAvailable": available,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "generation", "spec", "status", "problem"),
    [
        ("Deployment", 1, {"replicas": 1}, deployment(1, 1, 1), ""),
        ("Deployment", 2, {"replicas": 1}, deployment(1, 1, 1), "has not seen"),
        ("Deployment", 1, {"replicas": 2}, deployment(2, 1, 0), "1 of 2 pods have"),
        ("Deployment", 1, {"replicas": 1}, deployment(2, 1, 0), "old definition"),
        ("Deployment", 1, {"replicas": 1}, deployment(1, 1, 0), "0 of 1 pods are"),
        ("Deployment", 1, {"replicas": 0}, SEEN, ""),
        ("Deployment", 1, {}, {}, "has not seen"),
        ("StatefulSet", 1, {"replicas": 1}, stateful_set(1, 1, 1), ""),
        ("StatefulSet", 1, {"replicas": 1}, stateful_set(1, 1, 0), "0 of 1 pods are"),
        ("DaemonSet", 1, {}, SEEN, "no node is chosen"),
        ("DaemonSet", 1, {}, daemon_set(3, 3, 3), ""),
        ("DaemonSet", 1, {}, daemon_set(3, 3, 2), "2 of 3 pods are"),
        ("DaemonSet", 1, {}, daemon_set(3, 2, 3), "2 of 3 pods have"),
        ("Job", 1, {}, {}, "it is not complete"),
        ("Job", 1, {}, {"active": 1, "failed": 2}, "it is not complete; 2 pods have failed"),
        ("Job", 1, {}, {"conditions": [{"type": "Failed", "status": "False"}]}, "it is not complete"),
        ("Job", 1, {}, {"conditions": [{"type": "Failed", "status": "True", "message": "m"}]}, "it has failed: m"),
        ("Job", 1, {}, {"conditions": [{"type": "Complete", "status": "True"}]}, ""),
    ],
)
def test_workload_problem(kind, generation, spec, status, problem):
    found = kr.workload_problem({"kind": kind, "metadata": {"generation": generation}, "spec": spec, "status": status})
    assert (problem in found) if problem else (found == "")


def pod(name, *containers, phase="Pending", node="head", labels=None, conditions=(), namespace="jhub"):
    return {
        "metadata": {"namespace": namespace, "name": name, "labels": labels or {}},
        "spec": {"nodeName": node},
        "status": {"phase": phase, "conditions": list(conditions), "containerStatuses": list(containers)},
    }


READY = [{"type": "Ready", "status": "True"}]
PULLING = {"name": "hub", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}
CRASHING = {
    "name": "hub",
    "restartCount": 3,
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {"terminated": {"exitCode": 1}},
}
ENDED = {"name": "init", "state": {"terminated": {"reason": "Error", "exitCode": 2}}}
DONE = {"name": "init", "state": {"terminated": {"reason": "Completed", "exitCode": 0}}}
NOT_READY = {"name": "proxy", "state": {"running": {}}, "ready": False}


def event(name, message="m", kind="Pod", seconds=0, type_="Warning"):
    return {
        "type": type_,
        "lastTimestamp": f"2026-01-01T10:00:{seconds:02}Z",
        "metadata": {},
        "involvedObject": {"kind": kind, "name": name},
        "reason": "R",
        "message": message,
    }


@pytest.mark.parametrize(
    ("item", "events", "line"),
    [
        (pod("a", conditions=READY), [event("a")], None),
        (pod("a", PULLING), [], "pod jhub/a on head: Pending; hub: ImagePullBackOff (not found)"),
        (
            pod("a", node=None, conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]),
            [],
            "pod jhub/a on no node yet: Pending; 0/3 nodes",
        ),
        (pod("a", DONE, NOT_READY, phase="Running"), [], "pod jhub/a on head: Running; not ready yet"),
        (
            pod("a", CRASHING, phase="Running"),
            [],
            "pod jhub/a on head: Running; hub: CrashLoopBackOff; hub restarted 3 times",
        ),
        (
            pod("a", PULLING),
            [event("a", "older", seconds=1), event("a", "newest", seconds=9), event("ab", "another's", seconds=30)],
            "pod jhub/a on head: Pending; hub: ImagePullBackOff (not found); last event 10:00:09 R: newest",
        ),
        (
            pod("a"),
            [event("a", "x" * 300 + " the cause")],
            f"pod jhub/a on head: Pending; not ready yet; last event 10:00:00 R: {'x' * 100} ... {'x' * 90} the cause",
        ),
    ],
)
def test_pod_problems_say_what_a_person_must_know(item, events, line):
    assert kr.pod_problems([item], events) == ([line] if line else [])


def test_last_events_are_the_newest_warnings():
    events = [
        event("a", seconds=3),
        event("a", seconds=1),
        event("a", seconds=2, type_="Normal"),
        event("a", seconds=4),
    ]
    assert [line[17:19] for line in kr.last_events(events, limit=2)] == ["03", "04"]


def test_what_belongs_to_a_workload():
    hub = {"metadata": {"namespace": "jhub", "name": "hub"}, "spec": {"selector": {"matchLabels": {"c": "hub"}}}}
    own = pod("hub-1", labels={"c": "hub", "x": "y"})
    others = [pod("a", labels={"c": "proxy"}), pod("b"), pod("c", labels={"c": "hub"}, namespace="other")]
    assert kr.pods_of(hub, [own, *others]) == [own]
    assert kr.pods_of({"metadata": {"name": "hub"}}, [own, *others]) == [], "without a selector nothing is chosen"
    events = [event("hub", kind="Deployment"), event("hub-1"), event("hub-7c", kind="ReplicaSet"), event("hubble")]
    assert kr.events_of(hub, events) == events[:3]


def test_logs_that_explain_are_those_of_what_ended_then_of_what_runs():
    pods = [pod("ready", CRASHING, conditions=READY), pod("a", DONE, NOT_READY), pod("b", CRASHING), pod("c", ENDED)]
    assert kr.logs_to_read(pods) == [
        ("jhub", "b", "hub", True),
        ("jhub", "c", "init", False),
        ("jhub", "a", "proxy", False),
    ]
    assert len(kr.logs_to_read(pods * 9)) == 4


def test_a_log_is_bounded():
    lines = kr.log_lines(kr.Log("jhub", "b", "hub", True), "\n".join(["x" * 999] * 99), limit=3, width=10)
    assert lines == ["log of last run of jhub/b, container hub:", *["  | xxxxxxxxxx"] * 3]
    assert kr.log_lines(kr.Log("jhub", "b", "hub", False), "") == ["log of jhub/b, container hub:", "  | (empty)"]


def test_progress_is_one_bounded_line():
    assert kr.progress(["Deployment a: 0 of 1"], ["pod b"], 8.4, 300) == "8 of 300 s: Deployment a: 0 of 1 | pod b"
    assert len(kr.progress(["x" * 999], [], 8, 300)) <= 620
