"""Values of JupyterHub's chart."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import jupyterhub_values as values

EXAMPLE = json.loads(Path(__file__).with_name("jupyterhub_settings.json").read_text())
SETTINGS, SECRETS = EXAMPLE["settings"], EXAMPLE["secrets"]


def build(**changes):
    return values.build({**SETTINGS, **changes}, SECRETS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("16Gi", "16G"), ("16G", "16G"), ("512Mi", "512M"), ("1.5Gi", "1.5G"), ("2T", "2T"), ("64Ki", "64K")],
)
def test_memory(text, expected):
    assert values.memory("x", text) == expected


@pytest.mark.parametrize("text", ["16", "16GB", "-1Gi", "Gi", "1 Gi", "1e3", "16gi", "1Pi"])
def test_memory_refused(text):
    with pytest.raises(values.ValuesError, match=f"jupyterhub_memory_limit is '{text}'"):
        build(memory_limit=text)


@pytest.mark.parametrize(
    ("text", "expected"), [("2", 2), (2, 2), ("0.5", 0.5), (0.5, 0.5), ("500m", 0.5), ("2000m", 2)]
)
def test_cores(text, expected):
    result = values.cores("x", text)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize("text", ["0", "-1", "two", "m", "inf", "nan", "1 m m"])
def test_cores_refused(text):
    with pytest.raises(values.ValuesError, match=f"jupyterhub_cpu_limit is '{text}'"):
        build(cpu_limit=text)


@pytest.mark.parametrize(
    ("reference", "name", "tag"),
    [
        ("quay.io/me/notebook:1.2", "quay.io/me/notebook", "1.2"),
        ("registry:5000/me/notebook:1.2", "registry:5000/me/notebook", "1.2"),
        ("notebook@sha256:" + "a" * 64, "notebook@sha256", "a" * 64),
        ("notebook:1.2@sha256:" + "a" * 64, "notebook:1.2@sha256", "a" * 64),
    ],
)
def test_image(reference, name, tag):
    assert values.image("x", reference) == {"name": name, "tag": tag, "pullPolicy": "IfNotPresent"}
    assert f"{name}:{tag}" == reference


@pytest.mark.parametrize("reference", ["notebook", "registry:5000/notebook", "", ":", "notebook:"])
def test_image_refused(reference):
    with pytest.raises(values.ValuesError, match="jupyterhub_singleuser_image"):
        build(singleuser_image=reference)


@pytest.mark.parametrize("path", ["mnt/shared", "/mnt/{username}"])
def test_shared_storage_refused(path):
    with pytest.raises(values.ValuesError, match="jupyterhub_shared_storage_path"):
        build(shared_storage_path=path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "dummy"}, "jupyterhub_auth_mode is 'dummy'"),
        ({"approval": "nobody"}, "jupyterhub_native_approval is 'nobody'"),
        ({"minimum_password_length": 7}, "jupyterhub_native_minimum_password_length is 7"),
        ({"allowed_failed_logins": 0}, "jupyterhub_native_allowed_failed_logins is 0"),
        ({"lockout_seconds": 0}, "jupyterhub_native_lockout_seconds is 0"),
    ],
)
def test_auth_refused(change, message):
    with pytest.raises(values.ValuesError, match=message):
        build(auth={**SETTINGS["auth"], **change})


@pytest.mark.parametrize("name", ["", "Admin", "../x", "a b", "gpuhub-smoke", "a" * 49, "x\n"])
def test_administrators_refused(name):
    with pytest.raises(values.ValuesError, match="jupyterhub_admin_users: "):
        values.build(SETTINGS, {**SECRETS, "administrators": {name: "x"}})


def test_no_administrators_refused():
    with pytest.raises(values.ValuesError, match="jupyterhub_admin_users is empty"):
        values.build(SETTINGS, {**SECRETS, "administrators": {}})


def test_no_limits_are_no_keys():
    result = build(cpu_limit="", cpu_guarantee="", memory_limit="", memory_guarantee="")
    assert result["singleuser"]["cpu"] == {}
    # The chart's own default would be 1G.
    assert result["singleuser"]["memory"] == {"guarantee": 0}


def test_shared_storage_off():
    result = build(shared_storage_path="")
    assert [volume["name"] for volume in result["singleuser"]["storage"]["extraVolumes"]] == ["gpuhub-jupyterlab"]
    assert "storage" not in result["custom"]["gpuhub"]
    assert [volume["name"] for volume in result["hub"]["extraVolumes"]] == ["gpuhub-core"]


def test_shared_storage_on():
    result = build(shared_storage_path="/mnt/shared/")
    volumes = {item["name"]: item.get("hostPath") for item in result["singleuser"]["storage"]["extraVolumes"]}
    mounts = {item["name"]: item for item in result["singleuser"]["storage"]["extraVolumeMounts"]}
    assert volumes["gpuhub-storage"] == {"path": "/mnt/shared/users/{user_slug}", "type": "Directory"}
    assert mounts["gpuhub-storage"]["mountPath"] == "/workspace/storage"
    assert volumes["gpuhub-examples"] == {"path": "/mnt/shared/examples", "type": "Directory"}
    assert mounts["gpuhub-examples"] == {"name": "gpuhub-examples", "mountPath": "/shared/examples", "readOnly": True}
    assert result["custom"]["gpuhub"]["storage"] == {"users_path": values.USERS_FOLDER}


PROXY = {
    "variables": ["HTTPS_PROXY"],
    "no_proxy": "localhost,10.1.0.0/16",
    "endpoints": [{"host": "10.0.0.9", "port": 3128}, {"host": "proxy.example.com", "port": 8080}],
    "cluster_networks": ["10.1.0.0/16", "10.152.183.0/24"],
}


def test_without_a_proxy_nothing_is_said_of_one():
    assert build(proxy={**PROXY, "variables": [], "no_proxy": "", "endpoints": []}) == build()


def test_hub_and_notebooks_have_the_proxy_and_only_its_secret_the_address():
    secrets = {**SECRETS, "proxy_checksum": "e" * 64}
    result = values.build({**SETTINGS, "proxy": PROXY}, secrets)
    source = {"valueFrom": {"secretKeyRef": {"name": "gpuhub-proxy", "key": "HTTPS_PROXY"}}}
    for environment in (result["hub"]["extraEnv"], result["singleuser"]["extraEnv"]):
        assert {name: value for name, value in environment.items() if "proxy" in name.lower()} == {
            "HTTPS_PROXY": source,
            "https_proxy": source,
            "NO_PROXY": PROXY["no_proxy"],
            "no_proxy": PROXY["no_proxy"],
        }
    assert result["custom"]["gpuhub"]["proxy"] == "e" * 64


def test_notebooks_reach_the_proxy_and_nothing_else_besides():
    result = values.build({**SETTINGS, "proxy": PROXY}, {**SECRETS, "proxy_checksum": ""})
    known, named = result["singleuser"]["networkPolicy"]["egress"]
    assert known == {
        "to": [{"ipBlock": {"cidr": "10.0.0.9/32"}}],
        "ports": [{"port": 3128, "protocol": "TCP"}],
    }
    assert named["to"][0]["ipBlock"]["except"] == ["10.1.0.0/16", "10.152.183.0/24", "169.254.169.254/32"]
    assert named["ports"] == [{"port": 8080, "protocol": "TCP"}]


def test_values_are_what_helm_gives_back():
    """A null, a tuple or a number that changes its type would look like a change at every run."""
    result = build()

    def nulls(value, path=""):
        if isinstance(value, dict):
            return [hit for key, item in value.items() for hit in nulls(item, f"{path}.{key}")]
        if isinstance(value, list):
            return [hit for item in value for hit in nulls(item, f"{path}[]")]
        return [path] if value is None else []

    assert nulls(result) == []
    assert json.loads(json.dumps(result)) == result


def test_inputs_are_left_alone():
    before = copy.deepcopy((SETTINGS, SECRETS))
    build()["custom"]["gpuhub"]["auth"]["administrators"]["mallory"] = "x"
    assert before == (SETTINGS, SECRETS)


def test_the_smoke_test_may_do_little():
    role = build()["hub"]["loadRoles"]["gpuhub-smoke"]
    assert all(scope.endswith("!user=gpuhub-smoke") for scope in role["scopes"])
    assert role["services"] == ["gpuhub-smoke"]
