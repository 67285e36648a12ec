"""Names of users' pods, claims and volumes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import jupyterhub_values as values
from traitlets.config import Config

EXAMPLE = Path(__file__).parents[2] / "plugins" / "module_utils" / "jupyterhub_settings.json"


@pytest.fixture
def spawner_of(archive, monkeypatch):
    """A function that returns the spawner of a user, with the role's templates and without a cluster."""
    from gpuhub_hub.spawner import PlatformSpawner
    from kubespawner import spawner as kubespawner

    monkeypatch.setattr(kubespawner, "load_config", lambda **_: None)
    monkeypatch.setattr(kubespawner, "shared_client", lambda _: None)

    example = json.loads(EXAMPLE.read_text())
    singleuser = values.build(example["settings"], example["secrets"])["singleuser"]
    config = Config()
    config.KubeSpawner.pod_name_template = singleuser["podNameTemplate"]
    config.KubeSpawner.pvc_name_template = singleuser["storage"]["dynamic"]["pvcNameTemplate"]
    config.KubeSpawner.volumes = singleuser["storage"]["extraVolumes"]

    def spawner_of(name: str) -> PlatformSpawner:
        user = SimpleNamespace(name=name, id=1, escaped_name=name)
        return PlatformSpawner(_mock=True, config=config, user=user, hub=SimpleNamespace())

    return spawner_of


@pytest.mark.parametrize("name", ["alice", "alice.b", "jane@x.com", "..", "../../etc", "{unescaped_username}", "ü"])
def test_names_come_from_the_slug(spawner_of, name):
    from gpuhub_core.usernames import slug

    spawner = spawner_of(name)
    assert spawner.pod_name == f"jupyter-{slug(name)}"
    assert spawner.pvc_name == f"home-{slug(name)}"
    volumes = spawner._expand_all(spawner._sorted_dict_values(spawner.volumes))
    assert [volume["hostPath"]["path"] for volume in volumes if "hostPath" in volume] == [
        f"/mnt/shared/users/{slug(name)}",
        "/mnt/shared/examples",
    ]


ENDED, RUNS = {"terminated": {"exitCode": 1}}, {"running": {}}


@pytest.mark.parametrize(
    ("phase", "state", "pending", "answer"),
    [
        ("Running", RUNS, None, None),
        # A node has just booted, or the container has crashed: kubelet starts it again.
        ("Running", ENDED, None, None),
        ("Running", {"waiting": {"reason": "CrashLoopBackOff"}}, None, None),
        ("Running", ENDED, "spawn", 1),
        ("Succeeded", {"terminated": {"exitCode": 0}}, None, 0),
        ("Failed", ENDED, None, 1),
        ("Pending", RUNS, None, None),
    ],
)
def test_a_server_whose_container_is_started_again_has_not_ended(
    spawner_of, monkeypatch, phase, state, pending, answer
):
    spawner, stopped = spawner_of("alice"), []
    statuses = [{"name": "other", "state": RUNS}, {"name": "notebook", "state": state}]
    pod = {
        "metadata": {"name": "jupyter-alice"},
        "status": {"phase": phase, "podIP": None, "containerStatuses": statuses},
    }

    async def watch():
        return None

    async def stop(now):
        stopped.append(now)

    monkeypatch.setattr(spawner, "_start_watching_pods", watch)
    monkeypatch.setattr(spawner, "stop", stop)
    monkeypatch.setattr(
        type(spawner), "pod_reflector", SimpleNamespace(pods={f"{spawner.namespace}/jupyter-alice": pod})
    )
    spawner._spawn_pending = pending == "spawn"
    assert asyncio.run(spawner.poll()) == answer
    assert bool(stopped) is (answer is not None)


def test_kubespawner_s_own_templates_still_work(spawner_of):
    assert spawner_of("alice")._expand_user_properties("{username}-{user_slug}") == "alice-alice"


def test_a_form_that_is_sent_is_answered_in_the_language_of_the_form(spawner_of):
    spawner = spawner_of("alice")
    assert spawner.language == "en"
    spawner.handler = SimpleNamespace(request=SimpleNamespace(headers={"Accept-Language": "zh-TW"}))
    assert spawner.language == "zh-Hant"
    spawner.handler = None
    assert spawner.language == "zh-Hant"


def pod(phase: str, uid: str = "new", **status) -> dict:
    return {"metadata": {"uid": uid}, "spec": {"nodeName": "node-1"}, "status": {"phase": phase, **status}}


def test_a_start_does_not_wait_for_a_pod_that_has_ended(spawner_of):
    from gpuhub_hub.spawner import PodEndedError

    spawner = spawner_of("alice")
    spawner._spawn_pending, spawner._earlier = True, "old"
    refused = pod("Failed", reason="UnexpectedAdmissionError", message="no healthy devices")
    with pytest.raises(PodEndedError) as error:
        spawner.is_pod_running(refused)
    text = "on node node-1: UnexpectedAdmissionError: no healthy devices. Try again"
    assert text in error.value.jupyterhub_message
    # One that was there before the start is about to go; kubelet may still come to start the other two.
    for other in (pod("Failed", uid="old"), pod("Pending"), None):
        assert not spawner.is_pod_running(other)
    spawner._spawn_pending = False
    assert not spawner.is_pod_running(refused)


KILLED = {"name": "notebook", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": None}}}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"reason": "Evicted", "message": "low on memory"}, "Evicted: low on memory"),
        ({"containerStatuses": [KILLED, KILLED]}, "OOMKilled"),
        ({"reason": "x" * 1000}, "x" * 500),
        ({}, "Failed"),
    ],
)
def test_why_a_pod_ended(archive, status, words):
    from gpuhub_hub.spawner import why_ended

    assert why_ended(pod("Failed", **status)) == words


def home(spawner, answer) -> str:
    """Which node the spawner finds when the API server gives this answer."""

    async def read(name, namespace):
        assert (name, namespace) == (spawner.pvc_name, spawner.namespace)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(metadata=SimpleNamespace(annotations=answer))

    spawner.api = SimpleNamespace(read_namespaced_persistent_volume_claim=read)
    return asyncio.run(spawner._home_node())


def test_the_node_of_a_home(spawner_of, monkeypatch):
    from kubernetes_asyncio.client.rest import ApiException

    spawner = spawner_of("alice")
    claim = {"volume.kubernetes.io/selected-node": "node-2"}
    # On shared storage a claim names the node of its first pod, too.
    assert home(spawner, claim) == ""
    monkeypatch.setattr(type(spawner), "homes_on_nodes", True)
    assert home(spawner, claim) == "node-2"
    for nothing in ({}, None, ApiException(status=404), ApiException(status=500), OSError("away")):
        assert home(spawner, nothing) == ""
