"""The values that JupyterHub's chart (zero-to-jupyterhub) is deployed with. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from . import quota_profiles, usernames
from .quantities import QuantityError

# Where the hub's container has what the role gives it.
CORE_FOLDER = "/usr/local/share/gpuhub"
CORE_FILE = f"{CORE_FOLDER}/gpuhub-core.zip"
CORE_CONFIG_MAP = "gpuhub-core"
USERS_FOLDER = "/srv/gpuhub/users"

# Settings of JupyterLab beside those of the image; the role writes the ConfigMap, one key for each file.
JUPYTERLAB_CONFIG_MAP = "gpuhub-jupyterlab"
JUPYTERLAB_FOLDER = "/etc/jupyter/labconfig/default_setting_overrides.d"
# Authorities of the site, with the system's, in the hub and in notebooks.
CA_CONFIG_MAP = "gpuhub-ca"
CA_FOLDER = "/etc/gpuhub/ca"
CA_FILE = f"{CA_FOLDER}/ca.crt"
# Each is read by others: OpenSSL and Go, Python's requests, curl, Node.js, pip, git.
CA_VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
)
# The site's proxies, with their passwords; its keys are names of variables.
PROXY_SECRET = "gpuhub-proxy"
_METADATA_SERVER = "169.254.169.254/32"
# The usage portal's token; its only key is `token`.
PORTAL_SECRET = "gpuhub-usage-portal"
PORTAL_FOLDER = "/etc/gpuhub/usage-portal"
PORTAL_SERVICE = "usage-portal"
# What says in JupyterLab when a server ends; JupyterLab looks for extensions in the folder above.
NOTICES_CONFIG_MAP = "gpuhub-notices"
NOTICES_FOLDER = "/usr/local/share/jupyter/labextensions/gpuhub-notices"

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


class _Mounts:
    """Volumes and where they are mounted, as the chart has them for the hub and for notebooks."""

    def __init__(self) -> None:
        self.volumes: list[dict[str, Any]] = []
        self.mounts: list[dict[str, Any]] = []

    def add(self, name: str, path: str, read_only: bool = False, **source: Mapping[str, Any]) -> None:
        """Mount a volume, the whole of it, at `path`."""
        self.volumes.append({"name": name, **source})
        self.mounts.append({"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})})

    def config_map(self, name: str, path: str, **options: Any) -> None:
        """Mount a ConfigMap's entries as files below `path`."""
        self.add(name, path, read_only=True, configMap={"name": name, **options})

    def host_path(self, name: str, host_path: str, path: str, read_only: bool = False) -> None:
        """Mount a folder of the node.

        Type Directory: where the storage is not mounted the pod says so, and kubelet makes no empty folder instead.
        """
        self.add(name, path, read_only, hostPath={"path": host_path, "type": "Directory"})

    def as_values(self) -> dict[str, Any]:
        """The chart's keys."""
        return {"extraVolumes": self.volumes, "extraVolumeMounts": self.mounts}


def _proxy_environment(proxy: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables of the site's proxies, in both spellings: their values from the Secret, what they spare."""
    environment: dict[str, Any] = {}
    for name in proxy["variables"]:
        source = {"valueFrom": {"secretKeyRef": {"name": PROXY_SECRET, "key": name}}}
        environment.update({spelling: source for spelling in (name, name.lower())})
    return {**environment, **dict.fromkeys(("NO_PROXY", "no_proxy"), proxy["no_proxy"])}


def _proxy_egress(proxy: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what lets notebooks reach the site's proxies: the chart's policy has no private addresses.

    Of a proxy that has a name nobody knows the address: its port is open then, everywhere outside of the cluster.
    """
    rules = []
    for endpoint in proxy["endpoints"]:
        try:
            address = ipaddress.ip_address(endpoint["host"])
            block: dict[str, Any] = {"cidr": f"{address}/{address.max_prefixlen}"}
        except ValueError:
            block = {"cidr": "0.0.0.0/0", "except": [*proxy["cluster_networks"], _METADATA_SERVER]}
        rules.append({"to": [{"ipBlock": block}], "ports": [{"port": int(endpoint["port"]), "protocol": "TCP"}]})
    return rules


def _sizes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the hub is told about sizes of servers; nothing where they have none."""
    portal = settings.get("usage_portal") or {}
    url, sizes, profiles = portal.get("url") or "", settings.get("sizes") or {}, settings.get("profiles") or []
    for variable, value in (("jupyterhub_sizes", sizes), ("jupyterhub_profiles", profiles)):
        for path in _nulls(value, variable):
            raise ValuesError(f"{path} is empty; write a value, or leave it out")
    if url and profiles:
        raise ValuesError(
            "jupyterhub_profiles is set, and so is jupyterhub_usage_portal_url, whose sizes are computed for each "
            "user; leave one of them out"
        )
    try:
        quota_profiles.settings(sizes)
        nodes = settings.get("nodes")
        if (sizes or nodes is not None) and not url and not profiles:
            found, config = quota_profiles.compute(
                sizes, nodes=nodes, node_selector=settings.get("user_node_selector") or None
            )
            # The hub keeps them until the next deployment.
            profiles = quota_profiles.profile_list(quota_profiles.standing(found), config)
    except (quota_profiles.ProfilesError, QuantityError) as error:
        raise ValuesError(f"jupyterhub_sizes: {error}") from error
    told: dict[str, Any] = {"sizes": dict(sizes)} if sizes else {}
    if url:
        told["portal"] = {"url": _portal(url), "token_file": f"{PORTAL_FOLDER}/token"}
        if portal.get("external"):
            told["portal"]["external"] = True
        elif settings.get("homes_on_nodes"):
            told["homes_on_nodes"] = True
    elif profiles:
        told["profiles"] = [_profile(entry) for entry in profiles]
        slugs = [entry["slug"] for entry in told["profiles"]]
        if len(set(slugs)) != len(slugs):
            raise ValuesError(f"jupyterhub_profiles: a slug names one profile, and there are {', '.join(slugs)}")
    return told


# Resources that are null here KubeSpawner takes out of the pod. They are within a list, where Helm leaves nulls alone.
_TAKEN_OUT = ("extra_resource_limits", "extra_resource_guarantees")


def _nulls(value: Any, path: str) -> Iterator[str]:
    """Where nothing stands behind a key. Helm would leave it out, and what it stores would differ at every run."""
    if value is None:
        yield path
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if key not in _TAKEN_OUT:
            yield from _nulls(item, f"{path}.{key}")


def _portal(url: str, setting: str = "jupyterhub_usage_portal_url") -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValuesError(f"{setting} is '{url}'; it is like http://usage-portal.example.com:29781")
    return url.rstrip("/")


def _portal_login(settings: Mapping[str, Any], secrets: Mapping[str, Any]) -> dict[str, Any]:
    """Return the service and the role by which people log in at our own portal."""
    portal = settings.get("usage_portal") or {}
    if not portal.get("url") or portal.get("external") or not portal.get("public_url"):
        return {"services": {}, "loadRoles": {}}
    public_url = _portal(portal["public_url"], "jupyterhub_usage_portal_public_url")
    service = {
        "apiToken": secrets["portal_client"],
        "oauth_client_id": f"service-{PORTAL_SERVICE}",
        "oauth_redirect_uri": f"{public_url}/api/v1/auth/callback",
        # Who somebody is, and whether they are an administrator.
        "oauth_client_allowed_scopes": ["read:users!user"],
        "oauth_no_confirm": True,
        "display": False,
    }
    access = {"scopes": ["self", f"access:services!service={PORTAL_SERVICE}"]}
    return {"services": {PORTAL_SERVICE: service}, "loadRoles": {"user": access}}


def _profile(entry: Any) -> dict[str, Any]:
    keys = {"slug": str, "display_name": str, "kubespawner_override": Mapping}
    if not isinstance(entry, Mapping) or not all(
        isinstance(entry.get(key), kind) and entry[key] for key, kind in keys.items()
    ):
        raise ValuesError(
            f"jupyterhub_profiles: {str(entry)[:80]} is no profile; it needs slug, display_name, kubespawner_override"
        )
    return dict(entry)


def build(settings: Mapping[str, Any], secrets: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chart's values.

    `settings` (keys as in the role's `__jupyterhub_settings`):
    `core_node` name of the node of hub and proxy; `node_port`; `user_node_selector` labels; `singleuser_image`;
    `cpu_limit`, `cpu_guarantee`, `memory_limit`, `memory_guarantee` (empty: none); `start_timeout` seconds;
    `home_storage_class`, `home_size`, `home_access_mode`; `hub_storage_class`, `hub_storage_size`;
    `shared_storage_path` (empty: none); `auth` without passwords (see below);
    `core_checksum` of the archive with the hub's Python; `chart_checksum` of the chart's archive;
    `ca_checksum` of the authorities in the ConfigMap `gpuhub-ca` (empty: the images' own are enough).
    `proxy`: `variables` names of those in the Secret `gpuhub-proxy` (none: no proxy), `no_proxy` what needs none,
    `endpoints` `{host, port}` of each proxy, `cluster_networks` of pods and services.
    `usage_portal`: `url` (empty: none), `external` whether it has the documented endpoints alone, `secret` with its
    token, `public_url` as browsers reach it (empty: nobody logs in there); `sizes` settings of quota_profiles and
    `profiles` entries for everybody (none: those of `sizes` and of `nodes`, the cluster's as objects of Kubernetes;
    without any of them servers have no sizes);
    `homes_on_nodes` whether each home is on the disk of one node.

    `secrets`: `proxy_token`, `cookie_secret`, `crypt_key`, `smoke_token`, `administrators` {name: initial password};
    `proxy_checksum` of what the Secret `gpuhub-proxy` holds; `portal_client` by which the portal logs people in.

    Every value is stated as JSON can state it, null only resources of a profile, which Helm leaves as they are in a
    list: what it stores equals what was written.
    Raises ValuesError for a setting that the chart could not take.
    """
    shared = str(settings.get("shared_storage_path") or "").rstrip("/")
    if shared and not shared.startswith("/"):
        raise ValuesError(f"jupyterhub_shared_storage_path is '{shared}'; it must be an absolute path")
    if shared and re.search(r"[{}]", shared):
        raise ValuesError(f"jupyterhub_shared_storage_path is '{shared}'; braces are templates to KubeSpawner")
    core_node = {"kubernetes.io/hostname": settings["core_node"]}
    hub, notebook = _Mounts(), _Mounts()
    hub.config_map(CORE_CONFIG_MAP, CORE_FOLDER)
    environment: dict[str, Any] = {}
    annotations = {"gpuhub.platform/core-checksum": settings["core_checksum"]}
    portal_login = _portal_login(settings, secrets)
    custom: dict[str, Any] = {
        # The chart's archive may change while its version does not; this makes Helm deploy it.
        "chart": settings["chart_checksum"],
        "auth": _auth(settings["auth"], secrets["administrators"]),
        **_sizes(settings),
    }
    if "portal" in custom:
        # Kubelet brings a changed token by itself, and the hub reads it again.
        hub.add("gpuhub-usage-portal", PORTAL_FOLDER, True, secret={"secretName": settings["usage_portal"]["secret"]})
        if not custom["portal"].get("external"):
            files = [
                {"key": name, "path": path}
                for name, path in (("package.json", "package.json"), ("remoteEntry.js", "static/remoteEntry.js"))
            ]
            notebook.config_map(NOTICES_CONFIG_MAP, NOTICES_FOLDER, items=files, optional=True)
    if shared:
        hub.host_path("gpuhub-users", f"{shared}/users", USERS_FOLDER)
        notebook.host_path("gpuhub-storage", f"{shared}/users/{{user_slug}}", "/workspace/storage")
        notebook.host_path("gpuhub-examples", f"{shared}/examples", "/shared/examples", read_only=True)
        custom["storage"] = {"users_path": USERS_FOLDER}
    # Optional: settings that are missing are no reason for a server not to start.
    notebook.config_map(JUPYTERLAB_CONFIG_MAP, JUPYTERLAB_FOLDER, optional=True)
    if settings.get("ca_checksum"):
        hub.config_map(CA_CONFIG_MAP, CA_FOLDER)
        notebook.config_map(CA_CONFIG_MAP, CA_FOLDER)
        environment.update(dict.fromkeys(CA_VARIABLES, CA_FILE))
        # The hub reads them once, at its start.
        annotations["gpuhub.platform/ca-checksum"] = settings["ca_checksum"]
    proxy = settings.get("proxy") or {"variables": []}
    if proxy["variables"]:
        environment.update(_proxy_environment(proxy))
        # The hub is started anew when the Secret changes: the chart puts a checksum of its values on the pod.
        custom["proxy"] = secrets["proxy_checksum"]
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
            "annotations": annotations,
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
            "extraEnv": {"PYTHONPATH": CORE_FILE, **environment},
            **hub.as_values(),
            "extraConfig": {"50-gpuhub": EXTRA_CONFIG},
            "services": {SMOKE_TEST: {"apiToken": secrets["smoke_token"]}, **portal_login["services"]},
            "loadRoles": {
                **portal_login["loadRoles"],
                SMOKE_TEST: {
                    "description": "The smoke test's own user and its server, and nothing else.",
                    "scopes": [f"{scope}!user={SMOKE_TEST}" for scope in ("admin:users", "servers", "access:servers")],
                    "services": [SMOKE_TEST],
                },
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
            "extraEnv": environment,
            **({"networkPolicy": {"egress": _proxy_egress(proxy)}} if proxy["variables"] else {}),
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
                **notebook.as_values(),
            },
        },
        # Everything that would run further images, and that one or a few workers do not need.
        "scheduling": {"userScheduler": {"enabled": False}, "userPlaceholder": {"enabled": False}},
        "prePuller": {"hook": {"enabled": False}, "continuous": {"enabled": False}},
        "cull": {"enabled": False},
    }
