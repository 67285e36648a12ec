"""kube_ready against a cluster made of dicts."""

from __future__ import annotations

import base64

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import kube_wait
from ansible_collections.gpuhub.platform.plugins.modules import kube_ready

from .runner import run

WORKLOAD = {"kind": "Deployment", "namespace": "jhub", "name": "hub"}


class Cluster:
    """One Deployment, its pod, an event, a Secret, a log. `ready_after` looks it is ready; -1 never."""

    ready_after = 0
    unreachable = 0

    def __init__(self, kubeconfig):
        if Cluster.unreachable:
            Cluster.unreachable -= 1
            raise kube_ready.kube.UnreachableError("cannot reach the API server")
        self.looks = 0

    def get(self, item):
        self.looks += 1
        ready = 0 <= Cluster.ready_after < self.looks
        status = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": int(ready)}
        selector = {"matchLabels": {"component": "hub"}}
        return {**item, "spec": {"replicas": 1, "selector": selector}, "status": status}

    def list(self, api_version, kind, namespace=None):
        metadata = {"namespace": "jhub", "name": "hub-1", "labels": {"component": "hub"}}
        container = {
            "name": "hub",
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {}},
        }
        return {
            "Pod": [
                {"metadata": metadata, "spec": {}, "status": {"phase": "Running", "containerStatuses": [container]}}
            ],
            "Event": [
                {
                    "type": "Warning",
                    "metadata": {},
                    "lastTimestamp": "2026-01-01T10:00:00Z",
                    "involvedObject": {"kind": "Pod", "name": "hub-1"},
                    "reason": "BackOff",
                    "message": "restarting",
                }
            ],
            "Secret": [{"data": {"a": base64.b64encode(b"correct-horse").decode()}}],
            "Node": [
                {
                    "metadata": {"name": "head"},
                    "status": {
                        "conditions": [{"type": "Ready", "status": "True"}],
                        "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
                    },
                }
            ],
        }[kind]

    def log(self, namespace, pod, container, previous, lines):
        assert (namespace, pod, container, previous) == ("jhub", "hub-1", "hub", True)
        return "Traceback\nValueError: correct-horse is no number"


@pytest.fixture(autouse=True)
def cluster(monkeypatch):
    monkeypatch.setattr(kube_ready.kube, "Cluster", Cluster)
    monkeypatch.setattr(kube_ready.kube, "require_library", lambda module: None)
    monkeypatch.setattr(kube_wait, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(Cluster, "ready_after", 0)
    monkeypatch.setattr(Cluster, "unreachable", 0)


def test_all_ready_at_once():
    result = run("kube_ready", workloads=[WORKLOAD], nodes=["head"])
    assert result["nodes"] == {"head": "192.0.2.1"}
    assert result["missing"] == []
    assert "waiting" not in result


def test_it_waits(monkeypatch):
    monkeypatch.setattr(Cluster, "ready_after", 3)
    assert run("kube_ready", workloads=[WORKLOAD])["missing"] == []


def test_an_api_server_that_restarts_is_waited_for(monkeypatch):
    monkeypatch.setattr(Cluster, "unreachable", 2)
    assert run("kube_ready", workloads=[WORKLOAD])["missing"] == []


def test_a_slice_ends_with_what_is_waited_for(monkeypatch):
    monkeypatch.setattr(Cluster, "ready_after", -1)
    result = run("kube_ready", workloads=[WORKLOAD], slice=0.02, waited=8)
    assert "failed" not in result
    assert result["waiting"] == (
        "8 of 300 s: Deployment jhub/hub: 0 of 1 pods are available | pod jhub/hub-1 on no node yet: Running; "
        "hub: CrashLoopBackOff; last event 10:00:00 BackOff: restarting"
    )


def test_a_time_out_explains_itself_without_secrets(monkeypatch):
    monkeypatch.setattr(Cluster, "ready_after", -1)
    result = run("kube_ready", workloads=[WORKLOAD], nodes=["gone"], timeout=1, waited=1, slice=8)
    assert result["failed"]
    for text in (
        "not ready after 1 s",
        "node gone: it has not joined",
        "0 of 1 pods are available",
        "BackOff: restarting",
        "log of last run of jhub/hub-1, container hub:",
        "  | ValueError: (hidden) is no number",
    ):
        assert text in result["msg"]


def test_check_mode_looks_once(monkeypatch):
    monkeypatch.setattr(Cluster, "ready_after", -1)
    result = run("kube_ready", check=True, workloads=[WORKLOAD], slice=8)
    assert result["missing"] == ["Deployment jhub/hub: 0 of 1 pods are available"]
    assert "waiting" not in result
