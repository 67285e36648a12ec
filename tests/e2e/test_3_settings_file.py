"""The settings file of an installation by shell script deploys, without what does not exist yet."""

from __future__ import annotations

import base64
import json
import re

import yaml
from site_deployment import FILE, UNBUILT


def test_what_does_not_exist_yet_stops_before_any_host_is_connected_to(deployment):
    refused = deployment.play(*FILE)
    assert refused.code != 0
    assert f"gpuhub_env_ignore: [{', '.join(UNBUILT)}]" in refused.output
    assert re.findall(r"^TASK \[(.*)\]", refused.output, re.MULTILINE)[-1] == "Settings are known and can be right"


def test_what_the_file_says_is_deployed(site, deployment):
    assert "AUTH_MODE=native lets everybody in" in site.output
    secret = json.loads(deployment.kubectl("-n", "jhub", "get", "secret", "hub", "-o", "json"))
    values = yaml.safe_load(base64.b64decode(secret["data"]["values.yaml"]))
    assert values["custom"]["gpuhub"]["auth"]["approval"] == "auto"
    assert values["singleuser"]["storage"]["capacity"] == "12Gi"
    # The inventory names its administrators itself, and that wins.
    assert list(values["custom"]["gpuhub"]["auth"]["administrators"]) == ["admin"]
    assert "jupyterhub_admin_users: ADMIN_USERS_CSV" in site.output
