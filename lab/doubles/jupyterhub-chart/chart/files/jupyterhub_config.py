"""JupyterHub's configuration out of the values that the role writes: values, then hub.config, then hub.extraConfig."""

import os
import sys
from pathlib import Path

from tornado.httpclient import AsyncHTTPClient

# z2jh lies beside this file, and hub.extraConfig imports it.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import z2jh

c = get_config()  # noqa: F821, traitlets defines it
value = z2jh.get_config


def service_url(name):
    """Address of a Service, by the port that Kubernetes put into the environment."""
    return f"http://{name}:{os.environ[name.upper().replace('-', '_') + '_SERVICE_PORT']}"


AsyncHTTPClient.configure("tornado.curl_httpclient.CurlAsyncHTTPClient")

# The hub, and the proxy beside it
c.JupyterHub.spawner_class = "kubespawner.KubeSpawner"
c.JupyterHub.cleanup_servers = False
c.JupyterHub.last_activity_interval = 60
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0}
c.JupyterHub.db_url = "sqlite:///jupyterhub.sqlite"
c.JupyterHub.concurrent_spawn_limit = 64
c.JupyterHub.base_url = "/"
c.JupyterHub.admin_access = True
c.JupyterHub.allow_named_servers = False
c.JupyterHub.template_paths = []
c.JupyterHub.template_vars = {}
c.JupyterHub.hub_bind_url = "http://:8081"
c.JupyterHub.hub_connect_url = service_url("hub")
c.JupyterHub.cookie_secret = z2jh.get_secret_value("hub.config.JupyterHub.cookie_secret")
c.ConfigurableHTTPProxy.api_url = service_url("proxy-api")
c.ConfigurableHTTPProxy.should_start = False
c.CryptKeeper.keys = z2jh.get_secret_value("hub.config.CryptKeeper.keys").split(";")

c.JupyterHub.services = [
    {
        **{key: item for key, item in service.items() if key != "apiToken"},
        "name": name,
        "api_token": z2jh.get_secret_value(f"hub.services.{name}.apiToken"),
    }
    for name, service in value("hub.services").items()
]
c.JupyterHub.load_roles = [{**role, "name": name} for name, role in value("hub.loadRoles").items()]

# Users' servers
chart = f"{value('Chart.Name')}-{value('Chart.Version')}"
c.KubeSpawner.common_labels = {
    "app": value("Chart.Name"),
    "app.kubernetes.io/name": value("Chart.Name"),
    "release": value("Release.Name"),
    "app.kubernetes.io/instance": value("Release.Name"),
    "chart": chart,
    "helm.sh/chart": chart,
    "app.kubernetes.io/managed-by": "kubespawner",
}
c.KubeSpawner.namespace = os.environ["POD_NAMESPACE"]
c.Spawner.consecutive_failure_limit = value("hub.consecutiveFailureLimit")
c.Spawner.cmd = "jupyterhub-singleuser"
c.KubeSpawner.image = f"{value('singleuser.image.name')}:{value('singleuser.image.tag')}"
c.KubeSpawner.image_pull_policy = value("singleuser.image.pullPolicy")
c.KubeSpawner.pod_name_template = value("singleuser.podNameTemplate")
c.KubeSpawner.start_timeout = value("singleuser.startTimeout")
c.KubeSpawner.node_selector = value("singleuser.nodeSelector")
c.KubeSpawner.events_enabled = True
c.KubeSpawner.extra_labels = {"hub.jupyter.org/network-access-hub": "true"}
c.KubeSpawner.allow_privilege_escalation = False
c.KubeSpawner.uid = 1000
c.KubeSpawner.fs_gid = 100
c.KubeSpawner.mem_guarantee = value("singleuser.memory.guarantee")
for trait, key in (("mem_limit", "memory.limit"), ("cpu_limit", "cpu.limit"), ("cpu_guarantee", "cpu.guarantee")):
    if value(f"singleuser.{key}") is not None:
        setattr(c.KubeSpawner, trait, value(f"singleuser.{key}"))
for trait in (
    "extra_annotations",
    "storage_extra_labels",
    "lifecycle_hooks",
    "extra_resource_limits",
    "extra_resource_guarantees",
    "extra_pod_config",
):
    setattr(c.KubeSpawner, trait, {})
for trait in (
    "node_affinity_required",
    "pod_affinity_required",
    "pod_affinity_preferred",
    "pod_anti_affinity_required",
    "pod_anti_affinity_preferred",
    "init_containers",
    "extra_containers",
    "profile_list",
):
    setattr(c.KubeSpawner, trait, [])
c.KubeSpawner.environment = value("singleuser.extraEnv")
purpose = {"key": "hub.jupyter.org/node-purpose", "operator": "In", "values": ["user"]}
c.KubeSpawner.node_affinity_preferred = [{"weight": 100, "preference": {"matchExpressions": [purpose]}}]
c.KubeSpawner.tolerations = [
    {"key": key, "operator": "Equal", "value": "user", "effect": "NoSchedule"}
    for key in ("hub.jupyter.org/dedicated", "hub.jupyter.org_dedicated")
]

# Their homes, and what else is mounted
dynamic = value("singleuser.storage.dynamic")
c.KubeSpawner.storage_pvc_ensure = True
c.KubeSpawner.storage_capacity = value("singleuser.storage.capacity")
c.KubeSpawner.storage_class = dynamic["storageClass"]
c.KubeSpawner.storage_access_modes = dynamic["storageAccessModes"]
c.KubeSpawner.pvc_name_template = dynamic["pvcNameTemplate"]
home = dynamic["volumeNameTemplate"]
c.KubeSpawner.volumes = {
    home: {"name": home, "persistentVolumeClaim": {"claimName": "{pvc_name}"}},
    **{volume["name"]: volume for volume in value("singleuser.storage.extraVolumes", [])},
}
c.KubeSpawner.volume_mounts = {
    home: {"name": home, "mountPath": "/home/jovyan", "subPath": None},
    **{
        f"{number}-{mount['name']}": mount
        for number, mount in enumerate(value("singleuser.storage.extraVolumeMounts", []))
    },
}

# What comes from the Secret above is not taken from here again.
ELSEWHERE = {"JupyterHub": {"cookie_secret", "services"}, "CryptKeeper": {"keys"}}
for section, settings in value("hub.config").items():
    c[section].update({key: item for key, item in settings.items() if key not in ELSEWHERE.get(section, ())})

for name, snippet in sorted(value("hub.extraConfig").items()):
    exec(compile(snippet, f"hub.extraConfig.{name}", "exec"))
