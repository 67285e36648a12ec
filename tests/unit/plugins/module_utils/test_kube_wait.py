"""Waiting for workloads and nodes, with a cluster of plain dicts."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import kube_wait
from ansible_collections.gpuhub.platform.plugins.module_utils.kube_wait import NotReadyError, Wait

DNS = {"kind": "Deployment", "namespace": "kube-system", "name": "coredns"}


def deployment(available: int) -> dict[str, Any]:
    return {
        "metadata": {"generation": 1, "namespace": "kube-system", "name": "coredns"},
        "spec": {"replicas": 2},
        "status": {
            "observedGeneration": 1,
            "replicas": 2,
            "updatedReplicas": 2,
            "readyReplicas": available,
            "availableReplicas": available,
        },
    }


def node(ready: str) -> dict[str, Any]:
    return {"metadata": {"name": "head"}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}


def pod(name: str, phase: str, app: str = "hub") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "kube-system", "labels": {"app": app}},
        "status": {"phase": phase},
    }


class FakeCluster:
    """Answers each question with the next of its answers, and with the last from then on; raises what is an error."""

    def __init__(self, *deployments: Any, nodes: tuple[Any, ...] = (), pods: tuple[Any, ...] = ()) -> None:
        self.deployments, self.nodes, self.looks = list(deployments), nodes, 0
        self.pods, self.deleted = pods, []

    def get(self, item: dict[str, Any]) -> Any:
        self.looks += 1
        answer = self.deployments.pop(0) if len(self.deployments) > 1 else self.deployments[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def list(self, api_version: str, kind: str, **selectors: Any) -> Any:
        return list({"Node": self.nodes, "Pod": self.pods}.get(kind, ()))

    def delete(self, item: dict[str, Any]) -> None:
        self.deleted.append(item["metadata"]["name"])


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(kube_wait, "POLL_SECONDS", 0)


def test_looks_again_until_all_is_ready_also_while_the_api_server_is_away():
    cluster = FakeCluster(deployment(0), ConnectionError("refused"), None, deployment(1), deployment(2))
    Wait("", [], [DNS], cluster).run(60)
    assert cluster.looks == 5


@pytest.mark.parametrize(
    ("cluster", "nodes", "said"),
    [
        (FakeCluster(deployment(1)), [], "Deployment kube-system/coredns: "),
        (FakeCluster(None), [], "Deployment kube-system/coredns: it does not exist"),
        (FakeCluster(ConnectionError("refused")), [], "API server: refused"),
        (FakeCluster(deployment(2), nodes=(node("False"),)), ["head"], "node head: "),
        (FakeCluster(deployment(2), nodes=(node("True"),)), ["head", "worker1"], "node worker1: it has not joined"),
    ],
)
def test_says_what_is_missing_when_the_time_is_over(cluster, nodes, said):
    with pytest.raises(NotReadyError, match="not ready after") as failed:
        Wait("", nodes, [DNS], cluster).run(0)
    assert len(failed.value.missing) == 1
    assert failed.value.missing[0].startswith(said)
    assert said in str(failed.value)


EVICTED, DONE = pod("evicted", "Failed"), pod("done", "Succeeded")


def made_anew(strategy: str = "Recreate", replicas: int = 0) -> dict[str, Any]:
    """A Deployment that is late."""
    return {
        "metadata": {"generation": 1, "namespace": "kube-system", "name": "coredns"},
        "spec": {"replicas": 1, "strategy": {"type": strategy}, "selector": {"matchLabels": {"app": "hub"}}},
        "status": {"observedGeneration": 1, "replicas": replicas},
    }


@pytest.mark.parametrize(
    ("strategy", "replicas", "pods", "deleted"),
    [
        ("Recreate", 0, (EVICTED, DONE, pod("other", "Failed", app="other")), ["evicted", "done"]),
        ("Recreate", 0, (EVICTED, pod("old", "Running")), []),
        ("Recreate", 1, (EVICTED,), []),
        ("Recreate", 0, (), []),
        ("RollingUpdate", 0, (EVICTED,), []),
    ],
)
def test_a_deployment_that_is_made_anew_does_not_wait_for_pods_that_are_finished(strategy, replicas, pods, deleted):
    cluster = FakeCluster(made_anew(strategy, replicas), deployment(2), pods=pods)
    Wait("", [], [DNS], cluster).run(60)
    assert cluster.deleted == deleted


def test_a_look_deletes_nothing():
    cluster = FakeCluster(made_anew(), pods=(EVICTED,))
    Wait("", [], [DNS], cluster).missing()
    assert cluster.deleted == []
