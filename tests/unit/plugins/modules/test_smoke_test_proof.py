"""When the smoke test starts a server, and when what it has proven is enough."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils.hub_smoke import SmokeTestError, StillStarting
from ansible_collections.gpuhub.platform.plugins.modules.jupyterhub_smoke_test import Proof, prove


class Cluster:
    """Answers with the workloads and nodes that it was made of."""

    def __init__(self) -> None:
        self.hub = {"kind": "Deployment", "metadata": {"namespace": "jhub", "uid": "1", "generation": 1}}
        # Nobody's business.
        self.own = {"kind": "Deployment", "metadata": {"namespace": "team", "uid": "2", "generation": 1}}
        self.node = {"metadata": {"uid": "3"}, "status": {"nodeInfo": {"kubeletVersion": "v1.34.4"}}}

    def list(self, api_version: str, kind: str) -> list[dict[str, Any]]:
        return {"Deployment": [self.hub, self.own], "Node": [self.node]}.get(kind, [])


class Test:
    """Notes what is done with it."""

    __test__ = False

    def __init__(self, ends: Exception | None = None) -> None:
        self.ends, self.done = ends, []

    def await_hub(self) -> None:
        self.done.append("asked")

    def run(self) -> dict[str, Any]:
        self.done.append("started")
        if self.ends:
            raise self.ends
        return {"pod": "smoke"}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def proof(cluster, tmp_path) -> Proof:
    proof = Proof(str(tmp_path / "proof"), cluster, ["jhub"])
    assert prove(Test(), proof, again=False) == {"started": True, "pod": "smoke"}
    return proof


def test_what_is_proven_is_not_proven_again(proof):
    test = Test()
    assert prove(test, proof, again=False) == {"started": False}
    assert test.done == ["asked"]


def test_unless_it_is_asked_for(proof):
    assert prove(Test(), proof, again=True)["started"]


CHANGES = {
    "another spec": (lambda cluster: cluster.hub["metadata"].update(generation=2), True),
    "made anew": (lambda cluster: cluster.hub["metadata"].update(uid="9"), True),
    "another node": (lambda cluster: cluster.node["metadata"].update(uid="9"), True),
    "another kubelet": (lambda cluster: cluster.node["status"]["nodeInfo"].update(kubeletVersion="v1.35.0"), True),
    "gone": (lambda cluster: cluster.hub["metadata"].update(namespace="elsewhere"), True),
    "somebody's own": (lambda cluster: cluster.own["metadata"].update(generation=2), False),
}


@pytest.mark.parametrize(("change", "started"), CHANGES.values(), ids=CHANGES)
def test_after_a_change_of_the_cluster(proof, cluster, change, started):
    change(cluster)
    assert prove(Test(), proof, again=False)["started"] is started


@pytest.mark.parametrize("ends", [SmokeTestError("no"), StillStarting("wait"), KeyboardInterrupt()])
def test_a_test_that_did_not_come_to_its_end_proves_nothing(proof, ends):
    with pytest.raises(type(ends)):
        prove(Test(ends), proof, again=True)
    assert prove(Test(), proof, again=False)["started"]


def test_without_a_file_nothing_is_remembered(cluster):
    proof = Proof(None, cluster, ["jhub"])
    assert prove(Test(), proof, again=False)["started"]
    assert prove(Test(), proof, again=False)["started"]
