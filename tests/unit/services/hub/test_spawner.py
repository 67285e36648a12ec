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
