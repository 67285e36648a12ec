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
    ],
)
def test_workload_problem(kind, generation, spec, status, problem):
    found = kr.workload_problem({"kind": kind, "metadata": {"generation": generation}, "spec": spec, "status": status})
    assert (problem in found) if problem else (found == "")


def test_pod_problems_say_what_a_person_must_know():
    pods = [
        {
            "metadata": {"namespace": "jhub", "name": "fine"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        },
        {
            "metadata": {"namespace": "jhub", "name": "hub"},
            "spec": {"nodeName": "head"},
            "status": {
                "phase": "Pending",
                "containerStatuses": [
                    {"name": "hub", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}
                ],
            },
        },
        {
            "metadata": {"namespace": "jhub", "name": "jupyter-a"},
            "status": {
                "phase": "Pending",
                "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}],
            },
        },
    ]  # fmt: skip
    assert kr.pod_problems(pods) == [
        "pod jhub/hub on head: Pending; hub: ImagePullBackOff (not found)",
        "pod jhub/jupyter-a on no node yet: Pending; 0/3 nodes are available",
    ]


def test_last_events_are_the_newest_warnings():
    events = [
        {
            "type": kind,
            "lastTimestamp": f"2026-01-0{day}",
            "metadata": {},
            "involvedObject": {"kind": "Pod", "name": "a"},
            "reason": "R",
            "message": "m",
        }
        for day, kind in [(3, "Warning"), (1, "Warning"), (2, "Normal"), (4, "Warning")]
    ]  # fmt: skip
    assert [line[:10] for line in kr.last_events(events, limit=2)] == ["2026-01-03", "2026-01-04"]
