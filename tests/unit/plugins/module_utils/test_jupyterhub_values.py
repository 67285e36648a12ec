"""Values of JupyterHub's chart."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import jupyterhub_values as values
from ansible_collections.gpuhub.platform.plugins.module_utils import quota_profiles

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


PORTAL = {"url": "http://usage-portal.usage-portal:8080/", "external": False, "secret": "gpuhub-usage-portal"}
SIZES = {"sizes": [1, 2], "cpu_sizes": [{"cpu": 2, "memory": "8Gi"}], "products": ["Tesla-T4"]}
ENTRY = {"slug": "small", "display_name": "Small", "kubespawner_override": {"cpu_limit": 2}}


def told(**changes) -> dict:
    """What the hub is told beyond what it is told without sizes."""
    before = build()["custom"]["gpuhub"]
    return {key: value for key, value in build(**changes)["custom"]["gpuhub"].items() if key not in before}


def test_without_sizes_nothing_is_said_of_them():
    nothing = {"usage_portal": {**PORTAL, "url": ""}, "sizes": {}, "profiles": [], "homes_on_nodes": True}
    assert json.dumps(build(**nothing)) == json.dumps(build())


def test_a_portal_grants():
    result = build(usage_portal=PORTAL, sizes=SIZES)
    portal = {"url": "http://usage-portal.usage-portal:8080", "token_file": "/etc/gpuhub/usage-portal/token"}
    assert told(usage_portal=PORTAL, sizes=SIZES) == {"portal": portal, "sizes": SIZES}
    volumes = {volume["name"]: volume for volume in result["hub"]["extraVolumes"]}
    mounts = {mount["name"]: mount for mount in result["hub"]["extraVolumeMounts"]}
    assert volumes["gpuhub-usage-portal"]["secret"] == {"secretName": "gpuhub-usage-portal"}
    assert mounts["gpuhub-usage-portal"] == {
        "name": "gpuhub-usage-portal",
        "mountPath": "/etc/gpuhub/usage-portal",
        "readOnly": True,
    }
    assert told(usage_portal=PORTAL) == {"portal": portal}
    # Which are only known where nodes are.
    assert told(usage_portal=PORTAL, sizes={"cpu_per_gpu": "unlimited"})["sizes"] == {"cpu_per_gpu": "unlimited"}


def test_a_portal_s_notices_are_in_notebooks():
    storage = build(usage_portal=PORTAL)["singleuser"]["storage"]
    (volume,) = [volume for volume in storage["extraVolumes"] if volume["name"] == "gpuhub-notices"]
    paths = [item["path"] for item in volume["configMap"]["items"]]
    assert paths == ["package.json", "static/remoteEntry.js"] and volume["configMap"]["optional"]
    (mount,) = [mount for mount in storage["extraVolumeMounts"] if mount["name"] == "gpuhub-notices"]
    assert mount["mountPath"] == "/usr/local/share/jupyter/labextensions/gpuhub-notices"
    folder = Path(__file__).parents[4] / "roles" / "jupyterhub" / "files" / "notices"
    build_info = json.loads((folder / "package.json").read_text())
    assert (build_info["name"], build_info["jupyterlab"]["_build"]["load"]) == ("gpuhub-notices", paths[1])
    assert {path.name for path in folder.iterdir()} == {item["key"] for item in volume["configMap"]["items"]}


def test_people_log_in_at_a_portal_of_ours():
    there = {**PORTAL, "public_url": "http://192.0.2.11:29781"}
    hub = values.build({**SETTINGS, "usage_portal": there}, {**SECRETS, "portal_client": "planted"})["hub"]
    assert hub["services"]["usage-portal"] == {
        "apiToken": "planted",
        "oauth_client_id": "service-usage-portal",
        "oauth_redirect_uri": "http://192.0.2.11:29781/api/v1/auth/callback",
        "oauth_client_allowed_scopes": ["read:users!user"],
        "oauth_no_confirm": True,
        "display": False,
    }
    assert hub["loadRoles"]["user"] == {"scopes": ["self", "access:services!service=usage-portal"]}
    without = build(usage_portal={**there, "external": True})["hub"]
    assert set(without["services"]) == set(without["loadRoles"]) == {"gpuhub-smoke"}
    with pytest.raises(values.ValuesError, match="jupyterhub_usage_portal_public_url is 'hub:8443'"):
        build(usage_portal={**there, "public_url": "hub:8443"})


def test_a_portal_of_another_system():
    external = {**PORTAL, "url": "https://portal.example.com/usage", "external": True, "secret": "mine"}
    portal = {"url": external["url"], "token_file": "/etc/gpuhub/usage-portal/token", "external": True}
    # It knows of no nodes, and of no budgets that end a server.
    assert told(usage_portal=external, homes_on_nodes=True) == {"portal": portal}
    result = build(usage_portal=external)
    assert {"name": "gpuhub-usage-portal", "secret": {"secretName": "mine"}} in result["hub"]["extraVolumes"]
    assert "gpuhub-notices" not in json.dumps(result["singleuser"])


def test_homes_on_nodes_are_said_to_a_portal():
    assert told(usage_portal=PORTAL, homes_on_nodes=True)["homes_on_nodes"] is True


def test_sizes_without_a_portal_are_profiles_for_everybody():
    found = told(sizes=SIZES)
    assert found["sizes"] == SIZES
    assert found["profiles"] == quota_profiles.profile_list(*quota_profiles.compute(SIZES))
    slugs = [entry["slug"] for entry in found["profiles"]]
    assert slugs == ["cpu-2-8", "gpu-any-1", "gpu-any-2", "gpu-t4-1", "gpu-t4-2"]
    # What people write themselves counts more.
    assert told(sizes=SIZES, profiles=[ENTRY]) == {"sizes": SIZES, "profiles": [ENTRY]}
    # As the filter quota_profiles makes them.
    assert told(profiles=found["profiles"]) == {"profiles": found["profiles"]}


def node(gpus: int, **spec) -> dict:
    amounts = {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": str(gpus)}
    return {
        "metadata": {"name": f"n{gpus}", "labels": {"for": "users", "nvidia.com/gpu.product": "Tesla-T4"}},
        "spec": spec,
        "status": {
            "allocatable": amounts,
            "capacity": amounts,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


@pytest.mark.parametrize(
    ("nodes", "selector", "slugs"),
    [
        ([node(0)], {}, ["cpu-2-8"]),
        ([node(4)], {}, ["cpu-2-8", "gpu-any-1", "gpu-any-2", "gpu-any-4", "gpu-t4-1", "gpu-t4-2", "gpu-t4-4"]),
        # Cordoned at the moment.
        ([node(1, unschedulable=True)], {}, ["cpu-2-8", "gpu-any-1", "gpu-t4-1"]),
        # Nodes that users' servers do not run on.
        ([node(0), node(1)], {"for": "others"}, None),
    ],
)
def test_sizes_without_a_portal_are_those_that_the_nodes_have_room_for(nodes, selector, slugs):
    changes = {"nodes": nodes, "user_node_selector": selector}
    if slugs is None:
        with pytest.raises(values.ValuesError, match="jupyterhub_sizes: no size can be started"):
            build(**changes)
        return
    found = told(**changes)["profiles"]
    assert [entry["slug"] for entry in found] == slugs
    assert [entry["slug"] for entry in found if entry.get("default")] == slugs[:1]
    assert "profiles" not in told(usage_portal=PORTAL, **changes)


@pytest.mark.parametrize(
    "url", ["portal:8080", "ftp://portal", "http://", "http://portal/?a=b", "http://me:secret@portal"]
)
def test_portals_refused(url):
    with pytest.raises(values.ValuesError, match="jupyterhub_usage_portal_url"):
        build(usage_portal={**PORTAL, "url": url})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": {"sizes": "2"}}, "jupyterhub_sizes: sizes: "),
        ({"sizes": {"number": 2}}, "jupyterhub_sizes: number is no setting"),
        ({"sizes": {"cpu_per_gpu": "unlimited"}}, "jupyterhub_sizes: cpu_per_gpu and memory_per_gpu cannot be"),
        ({"sizes": {"sizes": [], "cpu_sizes": []}}, "jupyterhub_sizes: no size can be started"),
        ({"sizes": {"rdma_resource": None}}, "jupyterhub_sizes.rdma_resource is empty"),
        ({"profiles": [{**ENTRY, "kubespawner_override": {"image": None}}]}, "kubespawner_override.image is empty"),
        ({"profiles": [{**ENTRY, "slug": ""}]}, "is no profile"),
        ({"profiles": ["small"]}, "is no profile"),
        ({"profiles": [ENTRY, ENTRY]}, "a slug names one profile, and there are small, small"),
        ({"profiles": [ENTRY], "usage_portal": PORTAL}, "jupyterhub_profiles is set, and so is"),
    ],
)
def test_sizes_refused(changes, message):
    with pytest.raises(values.ValuesError, match=message):
        build(**changes)


def test_the_hub_reaches_a_portal_wherever_it_is():
    """The chart's policy of the hub leaves out the metadata service of clouds and nothing else."""
    path = Path(__file__).parents[4] / "lab" / "doubles" / "jupyterhub-chart" / "facts.json"
    egress = json.loads(path.read_text())["NetworkPolicy hub"]["spec"]["egress"]
    blocks = [
        item["ipBlock"] for rule in egress for item in rule.get("to", []) if "ipBlock" in item and "ports" not in rule
    ]
    open_, private = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}, set()
    for block in blocks:
        if block["cidr"] == "0.0.0.0/0":
            assert set(block["except"]) == open_ | {"169.254.169.254/32"}
        private.add(block["cidr"])
    assert open_ | {"0.0.0.0/0"} <= private


@pytest.mark.parametrize("changes", [{}, {"usage_portal": PORTAL, "sizes": SIZES}, {"sizes": SIZES}])
def test_values_are_what_helm_gives_back(changes):
    """A null, a tuple or a number that changes its type would look like a change at every run.

    Within a list, as profiles are, Helm leaves nulls as they are.
    """
    result = build(**changes)

    def nulls(value, path=""):
        if isinstance(value, dict):
            return [hit for key, item in value.items() for hit in nulls(item, f"{path}.{key}")]
        if isinstance(value, list):
            return [hit for item in value for hit in nulls(item, f"{path}[]")]
        return [path] if value is None else []

    taken_out = ".custom.gpuhub.profiles[].kubespawner_override.extra_resource_"
    assert [path for path in nulls(result) if not path.startswith(taken_out)] == []
    assert json.loads(json.dumps(result)) == result


def test_inputs_are_left_alone():
    before = copy.deepcopy((SETTINGS, SECRETS))
    build()["custom"]["gpuhub"]["auth"]["administrators"]["mallory"] = "x"
    assert before == (SETTINGS, SECRETS)


def test_the_smoke_test_may_do_little():
    role = build()["hub"]["loadRoles"]["gpuhub-smoke"]
    assert all(scope.endswith("!user=gpuhub-smoke") for scope in role["scopes"])
    assert role["services"] == ["gpuhub-smoke"]
