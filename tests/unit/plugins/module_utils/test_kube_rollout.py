"""Whether workloads are rolled out, by recorded shapes of their status."""

from __future__ import annotations

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import kube_rollout as kr


@pytest.mark.parametrize(
    ("kind", "generation", "spec", "status", "problem"),
    [
        ("Deployment", 1, {"replicas": 1}, {"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": 1, "replicas": 1}, ""),
        ("Deployment", 2, {"replicas": 1}, {"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": 1}, "has not seen"),
        ("Deployment", 1, {"replicas": 2}, {"observedGeneration": 1, "updatedReplicas": 1, "replicas": 2}, "1 of 2 pods have"),
        ("Deployment", 1, {"replicas": 1}, {"observedGeneration": 1, "updatedReplicas": 1, "replicas": 2}, "old definition"),
        ("Deployment", 1, {"replicas": 1}, {"observedGeneration": 1, "updatedReplicas": 1, "replicas": 1}, "0 of 1 pods are"),
        ("Deployment", 1, {"replicas": 0}, {"observedGeneration": 1}, ""),
        ("DaemonSet", 1, {}, {"observedGeneration": 1}, "no node is chosen"),
        ("DaemonSet", 1, {}, {"observedGeneration": 1, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 3}, ""),
        ("DaemonSet", 1, {}, {"observedGeneration": 1, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 2}, "2 of 3 pods are"),
        ("StatefulSet", 1, {"replicas": 1}, {"observedGeneration": 1, "updatedReplicas": 1, "readyReplicas": 1, "replicas": 1}, ""),
        ("Deployment", 1, {}, {}, "has not seen"),
    ],
)  # fmt: skip
def test_workload_problem(kind, generation, spec, status, problem):
    found = kr.workload_problem({"kind": kind, "metadata": {"generation": generation}, "spec": spec, "status": status})
    assert (problem in found) if problem else (found == "")


def test_pod_problems_say_what_a_person_must_know():
    pods = [
        {"metadata": {"namespace": "jhub", "name": "fine"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}},
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
        {"type": kind, "lastTimestamp": f"2026-01-0{day}", "metadata": {}, "involvedObject": {"kind": "Pod", "name": "a"},
         "reason": "R", "message": "m"}
        for day, kind in [(3, "Warning"), (1, "Warning"), (2, "Normal"), (4, "Warning")]
    ]  # fmt: skip
    assert [line[:10] for line in kr.last_events(events, limit=2)] == ["2026-01-03", "2026-01-04"]
