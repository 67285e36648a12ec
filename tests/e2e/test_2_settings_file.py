"""The settings file of an installation by shell script deploys, without what does not exist yet."""

from __future__ import annotations

import base64
import json
import re

import pytest
import yaml
from harness import Deployment, Play

FILE = ("-e", "gpuhub_env_file=tests/e2e/data/jhub.env")
UNBUILT = ["USE_GPU_OPERATOR", "ENABLE_IB", "ENABLE_IDLE_CULLER"]
# The portal that the file names is nowhere.
IGNORE = ("-e", json.dumps({"gpuhub_env_ignore": [*UNBUILT, "ENABLE_USAGE_LIMIT_ENFORCER"]}))


@pytest.fixture(scope="module")
def from_file(deployment: Deployment) -> Play:
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
