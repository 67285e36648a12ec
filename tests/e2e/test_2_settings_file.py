"""The settings file of an installation by shell script deploys, without what does not exist yet."""

from __future__ import annotations

import base64
import json
import re

import pytest
import yaml
from harness import Deployment, Play, wait_for

FILE = ("-e", "gpuhub_env_file=tests/e2e/data/jhub.env")
UNBUILT = ["USE_GPU_OPERATOR", "ENABLE_IB", "ENABLE_USAGE_LIMIT_ENFORCER", "ENABLE_IDLE_CULLER"]
IGNORE = ("-e", json.dumps({"gpuhub_env_ignore": UNBUILT}))


def hubs(deployment: Deployment) -> list[str]:
    """Names of the hub's pods, finished ones too."""
    return [pod["metadata"]["name"] for pod in deployment.objects("pods", "-n", "jhub", "-l", "component=hub")]


@pytest.fixture(scope="module")
def ended(deployment: Deployment) -> str:
    """A pod of the hub that its node has ended, as it does where a disk is full. Another took its place; it stays."""
    (name,) = hubs(deployment)
    deployment.kubectl("-n", "jhub", "patch", f"pod/{name}", "-p", '{"spec": {"activeDeadlineSeconds": 1}}')
    wait_for("another pod of the hub", lambda: len(hubs(deployment)) == 2 and deployment.works())
    return name


@pytest.fixture(scope="module")
def from_file(deployment: Deployment, ended: str) -> Play:
    """A deployment with the file's settings."""
    return deployment.play(*FILE, *IGNORE)


def test_what_does_not_exist_yet_stops_before_any_host_is_connected_to(deployment):
    refused = deployment.play(*FILE)
    assert refused.code != 0
    assert f"gpuhub_env_ignore: [{', '.join(UNBUILT)}]" in refused.output
    assert re.findall(r"^TASK \[(.*)\]", refused.output, re.MULTILINE)[-1] == "Settings are known and can be right"


def test_deploys(from_file):
    assert from_file.code == 0, from_file.output[-6000:]
    assert from_file.changed > 0
    assert "AUTH_MODE=native lets everybody in" in from_file.output


def test_what_the_file_says_is_deployed(from_file, deployment):
    secret = json.loads(deployment.kubectl("-n", "jhub", "get", "secret", "hub", "-o", "json"))
    values = yaml.safe_load(base64.b64decode(secret["data"]["values.yaml"]))
    assert values["custom"]["gpuhub"]["auth"]["approval"] == "auto"
    assert values["singleuser"]["storage"]["capacity"] == "12Gi"
    # The inventory names its administrators itself, and that wins.
    assert list(values["custom"]["gpuhub"]["auth"]["administrators"]) == ["admin"]
    assert "jupyterhub_admin_users: ADMIN_USERS_CSV" in from_file.output


def test_a_second_run_changes_nothing(from_file, deployment):
    again = deployment.play(*FILE, *IGNORE)
    assert again.code == 0, again.output[-6000:]
    assert again.changed == 0, again.changed_tasks()


def test_back_again_a_pod_that_has_ended_is_in_nobodys_way(from_file, deployment, ended):
    """The hub's Deployment, made anew as it was before, would wait ten minutes for it."""
    back = deployment.play()
    assert back.code == 0, back.output[-6000:]
    assert ended not in hubs(deployment)
