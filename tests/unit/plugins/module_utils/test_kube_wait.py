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


class FakeCluster:
    """Answers each question with the next of its answers, and with the last from then on; raises what is an error."""

    def __init__(self, *deployments: Any, nodes: tuple[Any, ...] = ()) -> None:
        self.deployments, self.nodes, self.looks = list(deployments), nodes, 0

    def get(self, item: dict[str, Any]) -> Any:
        self.looks += 1
        answer = self.deployments.pop(0) if len(self.deployments) > 1 else self.deployments[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def list(self, api_version: str, kind: str, **selectors: Any) -> Any:
        return list(self.nodes) if kind == "Node" else []


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
