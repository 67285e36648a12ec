"""Names of users' pods, claims and volumes."""

from __future__ import annotations

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


def test_kubespawner_s_own_templates_still_work(spawner_of):
    assert spawner_of("alice")._expand_user_properties("{username}-{user_slug}") == "alice-alice"
