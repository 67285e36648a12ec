"""The values that JupyterHub's chart (zero-to-jupyterhub) is deployed with. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import usernames

# Where the hub's container has what the role gives it.
CORE_FOLDER = "/usr/local/share/gpuhub"
CORE_FILE = f"{CORE_FOLDER}/gpuhub-core.zip"
CORE_CONFIG_MAP = "gpuhub-core"
USERS_FOLDER = "/srv/gpuhub/users"

# Settings of JupyterLab beside those of the image; the role writes the ConfigMap, one key for each file.
LAB_CONFIG_MAP = "gpuhub-lab"
LAB_FOLDER = "/etc/jupyter/labconfig/default_setting_overrides.d"

SMOKE_TEST = "gpuhub-smoke"
AUTHENTICATOR = "gpuhub_hub.native.PlatformNativeAuthenticator"

EXTRA_CONFIG = """\
import gpuhub_hub
from z2jh import get_config

gpuhub_hub.setup(c, get_config("custom.gpuhub"))
"""

# KubeSpawner's units are powers of two without the "i" that Kubernetes writes.
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)([KMGT])i?")


class ValuesError(Exception):
    """A setting that the chart would refuse, or misunderstand; the text names the variable."""


def memory(variable: str, text: str) -> str:
    """Return an amount of memory as KubeSpawner reads it: `16Gi` and `16G` both become `16G` (2^30 bytes each)."""
    match = _MEMORY.fullmatch(str(text))
    if not match:
        raise ValuesError(f"{variable} is '{text}'; an amount of memory is a number with Ki, Mi, Gi or Ti: 16Gi, 1.5Gi")
    return match[1] + match[2]


def cores(variable: str, text: Any) -> float:
    """Return a number of cores as KubeSpawner reads it: `2`, `0.5` and `500m` are understood."""
    try:
        value = float(text[:-1]) / 1000 if str(text).endswith("m") else float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValuesError(f"{variable} is '{text}'; a number of cores is like 2, 0.5 or 500m")
    return int(value) if value == int(value) else value


def image(variable: str, reference: str) -> dict[str, str]:
    """Return an image reference as the chart wants it, in `name` and `tag`.

    `name@sha256:HEX` is split at its last colon too: the chart joins both parts again with one.
    """
    name, colon, tag = str(reference).rpartition(":")
    if not colon or not name or not tag or "/" in tag:
        raise ValuesError(f"{variable} is '{reference}'; an image needs a tag or a digest: quay.io/me/notebook:1.2")
    return {"name": name, "tag": tag, "pullPolicy": "IfNotPresent"}


def _auth(auth: Mapping[str, Any], passwords: Mapping[str, str]) -> dict[str, Any]:
    """Return what the hub is told about logins."""
    if auth["mode"] != "native":
        raise ValuesError(f"jupyterhub_auth_mode is '{auth['mode']}'; this version knows: native")
    if auth["approval"] not in ("admin", "auto"):
        raise ValuesError(f"jupyterhub_native_approval is '{auth['approval']}'; it must be admin or auto")
    if not passwords:
        raise ValuesError("jupyterhub_admin_users is empty; nobody could approve anybody")
    wrong = usernames.faults(passwords)
    if wrong:
        raise ValuesError(f"jupyterhub_admin_users: {'; '.join(wrong)}")
    for key, least in (("minimum_password_length", 8), ("allowed_failed_logins", 1), ("lockout_seconds", 1)):
        if int(auth[key]) < least:
            raise ValuesError(f"jupyterhub_native_{key} is {auth[key]}; it must be at least {least}")
    return {**auth, "administrators": dict(passwords)}


def _user_resources(settings: Mapping[str, Any]) -> dict[str, Any]:
    resources: dict[str, Any] = {"cpu": {}, "memory": {}}
    for kind, convert in (("cpu", cores), ("memory", memory)):
        for bound in ("limit", "guarantee"):
            value = settings.get(f"{kind}_{bound}")
            if value not in (None, ""):
                resources[kind][bound] = convert(f"jupyterhub_{kind}_{bound}", value)
    # Where nothing is stated the chart has 1G.
    resources["memory"].setdefault("guarantee", 0)
    return resources


def _notebook_volumes(shared: str) -> dict[str, Any]:
    """Return volumes and mounts of a notebook: JupyterLab's settings, and where `shared` is a path, the user's folder
    and the examples.

    Type Directory: where the storage is not mounted the pod says so, and kubelet makes no empty folder instead.
    """

    def volume(name: str, host_path: str) -> dict[str, Any]:
        return {"name": name, "hostPath": {"path": host_path, "type": "Directory"}}

    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    if shared:
        volumes += [
            volume("gpuhub-storage", f"{shared}/users/{{user_slug}}"),
            volume("gpuhub-examples", f"{shared}/examples"),
        ]
        mounts += [
            {"name": "gpuhub-storage", "mountPath": "/workspace/storage"},
            {"name": "gpuhub-examples", "mountPath": "/shared/examples", "readOnly": True},
        ]
    # Optional: settings that are missing are no reason for a server not to start.
    volumes.append({"name": LAB_CONFIG_MAP, "configMap": {"name": LAB_CONFIG_MAP, "optional": True}})
    mounts.append({"name": LAB_CONFIG_MAP, "mountPath": LAB_FOLDER, "readOnly": True})
    return {"extraVolumes": volumes, "extraVolumeMounts": mounts}


def build(settings: Mapping[str, Any], secrets: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chart's values.

    `settings` (keys as in the role's `__jupyterhub_settings`):
    `core_node` name of the node of hub and proxy; `node_port`; `user_node_selector` labels; `singleuser_image`;
    `cpu_limit`, `cpu_guarantee`, `memory_limit`, `memory_guarantee` (empty: none); `start_timeout` seconds;
    `home_storage_class`, `home_size`, `home_access_mode`; `hub_storage_class`, `hub_storage_size`;
    `shared_storage_path` (empty: none); `auth` without passwords (see below);
    `core_checksum` of the archive with the hub's Python; `chart_checksum` of the chart's archive.

    `secrets`: `proxy_token`, `cookie_secret`, `crypt_key`, `smoke_token`, `administrators` {name: initial password}.

    Every value is stated as JSON can state it; none is null, so that what Helm stores equals what was written.
    Raises ValuesError for a setting that the chart could not take.
    """
    shared = str(settings.get("shared_storage_path") or "").rstrip("/")
    if shared and not shared.startswith("/"):
        raise ValuesError(f"jupyterhub_shared_storage_path is '{shared}'; it must be an absolute path")
    if shared and re.search(r"[{}]", shared):
        raise ValuesError(f"jupyterhub_shared_storage_path is '{shared}'; braces are templates to KubeSpawner")
    core_node = {"kubernetes.io/hostname": settings["core_node"]}
    volumes: list[dict[str, Any]] = [{"name": CORE_CONFIG_MAP, "configMap": {"name": CORE_CONFIG_MAP}}]
    mounts: list[dict[str, Any]] = [{"name": CORE_CONFIG_MAP, "mountPath": CORE_FOLDER, "readOnly": True}]
    custom: dict[str, Any] = {
        # The chart's archive may change while its version does not; this makes Helm deploy it.
        "chart": settings["chart_checksum"],
        "auth": _auth(settings["auth"], secrets["administrators"]),
    }
    if shared:
        volumes.append({"name": "gpuhub-users", "hostPath": {"path": f"{shared}/users", "type": "Directory"}})
        mounts.append({"name": "gpuhub-users", "mountPath": USERS_FOLDER})
        custom["storage"] = {"users_path": USERS_FOLDER}
    return {
        "custom": {"gpuhub": custom},
        "hub": {
            "config": {
                # The chart's default lets everybody in; setup() sets the same again, with its settings.
                "JupyterHub": {"authenticator_class": AUTHENTICATOR},
                "CryptKeeper": {"keys": [secrets["crypt_key"]]},
                # Pinned, because a newer KubeSpawner's defaults would look for homes elsewhere.
                "KubeSpawner": {"slug_scheme": "safe", "remember_pvc_name": True, "handle_legacy_names": False},
            },
            "cookieSecret": secrets["cookie_secret"],
            # A refused start counts as a failure; users' mistakes must not make the hub exit.
            "consecutiveFailureLimit": 0,
            "nodeSelector": core_node,
            "annotations": {"gpuhub.platform/core-checksum": settings["core_checksum"]},
            "image": {"pullPolicy": "IfNotPresent"},
            "db": {
                "type": "sqlite-pvc",
                "pvc": {
                    # Accounts and passwords survive an uninstall, and are found again.
                    "annotations": {"helm.sh/resource-policy": "keep"},
                    "storageClassName": settings["hub_storage_class"],
                    "storage": settings["hub_storage_size"],
                },
            },
            "extraEnv": {"PYTHONPATH": CORE_FILE},
            "extraVolumes": volumes,
            "extraVolumeMounts": mounts,
            "extraConfig": {"50-gpuhub": EXTRA_CONFIG},
            "services": {SMOKE_TEST: {"apiToken": secrets["smoke_token"]}},
            "loadRoles": {
                SMOKE_TEST: {
                    "description": "The smoke test's own user and its server, and nothing else.",
                    "scopes": [f"{scope}!user={SMOKE_TEST}" for scope in ("admin:users", "servers", "access:servers")],
                    "services": [SMOKE_TEST],
                }
            },
        },
        "proxy": {
            "secretToken": secrets["proxy_token"],
            "service": {"type": "NodePort", "nodePorts": {"http": int(settings["node_port"])}},
            "chp": {"nodeSelector": core_node, "image": {"pullPolicy": "IfNotPresent"}},
        },
        "singleuser": {
            "image": image("jupyterhub_singleuser_image", settings["singleuser_image"]),
            "podNameTemplate": "jupyter-{user_slug}--{servername}",
            "startTimeout": int(settings["start_timeout"]),
            "nodeSelector": dict(settings["user_node_selector"]),
            **_user_resources(settings),
            # Its init container is privileged and needs an image of its own; the network policy blocks the same.
            "cloudMetadata": {"blockWithIptables": False},
            "storage": {
                "type": "dynamic",
                "capacity": settings["home_size"],
                "dynamic": {
                    "storageClass": settings["home_storage_class"],
                    "pvcNameTemplate": "home-{user_slug}",
                    "volumeNameTemplate": "home",
                    "storageAccessModes": [settings["home_access_mode"]],
                },
                **_notebook_volumes(shared),
            },
        },
        # Everything that would run further images, and that one or a few workers do not need.
        "scheduling": {"userScheduler": {"enabled": False}, "userPlaceholder": {"enabled": False}},
        "prePuller": {"hook": {"enabled": False}, "continuous": {"enabled": False}},
        "cull": {"enabled": False},
    }
