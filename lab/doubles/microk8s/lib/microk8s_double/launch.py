"""Launch configurations: read, check, apply."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from . import arguments, certificates, services
from .snapenv import ARGS, COMMON, CREDENTIALS, SNAP, write

FOLDER = COMMON / "etc/launcher"
_VERSIONS = ((0, 1, 0), (0, 2, 0))
# Key of the configuration: file in args/, unit that reads it ("" for none).
_ARGUMENTS = {
    "extraKubeAPIServerArgs": ("kube-apiserver", "kubelite"),
    "extraKubeletArgs": ("kubelet", "kubelite"),
    "extraKubeProxyArgs": ("kube-proxy", "kubelite"),
    "extraKubeControllerManagerArgs": ("kube-controller-manager", "kubelite"),
    "extraKubeSchedulerArgs": ("kube-scheduler", "kubelite"),
    "extraKubeliteEnv": ("kubelite-env", "kubelite"),
    "extraContainerdArgs": ("containerd", "containerd"),
    "extraContainerdEnv": ("containerd-env", "containerd"),
    "extraDqliteArgs": ("k8s-dqlite", "k8s-dqlite"),
    "extraDqliteEnv": ("k8s-dqlite-env", "k8s-dqlite"),
    "extraMicroK8sClusterAgentArgs": ("cluster-agent", "cluster-agent"),
    "extraMicroK8sClusterAgentEnv": ("cluster-agent-env", "cluster-agent"),
    "extraMicroK8sAPIServerProxyArgs": ("apiserver-proxy", "apiserver-proxy"),
    "extraMicroK8sAPIServerProxyEnv": ("apiserver-proxy-env", "apiserver-proxy"),
    "extraCNIEnv": ("cni-env", ""),
}
_KINDS: dict[str, type] = {
    **dict.fromkeys(_ARGUMENTS, dict),
    "version": str,
    "addonRepositories": list,
    "addons": list,
    "extraSANs": list,
    "containerdRegistryConfigs": dict,
    "extraConfigFiles": dict,
    "persistentClusterToken": str,
    "join": dict,
}


class LaunchError(Exception):
    """A configuration that cannot be read or applied."""


class _Loader(yaml.SafeLoader):
    """Scalars are text, as in the Go structure that MicroK8s reads them into; null stays null."""


for _tag in ("bool", "int", "float", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", lambda loader, node: node.value)


def parse(text: str) -> list[dict[str, Any]]:
    """The documents of a configuration; LaunchError names what is wrong, unknown keys only warn."""
    try:
        documents = [d for d in yaml.load_all(text, Loader=_Loader) if d]
    except yaml.YAMLError as error:
        raise LaunchError(f"could not parse configuration: {error}") from error
    for document in documents:
        if not isinstance(document, dict):
            raise LaunchError(f"could not parse configuration: cannot unmarshal {document!r} into Configuration")
        for key, value in document.items():
            if key not in _KINDS:
                print(f'WARNING: configuration may contain unknown fields (error was "field {key} not found").')
                print("Any unknown fields will be ignored")
            elif value is not None and not isinstance(value, _KINDS[key]):
                raise LaunchError(f"could not parse configuration: cannot unmarshal {value!r} into field {key}")
        version = document.get("version") or ""
        if not re.fullmatch(r"\d+\.\d+\.\d+", version):
            raise LaunchError(f'could not parse config file version "{version}"')
        number = tuple(int(part) for part in version.split("."))
        if number > _VERSIONS[1]:
            raise LaunchError(f"config file version is {version} but the maximum version supported is 0.2.0")
        if number < _VERSIONS[0]:
            raise LaunchError(f"config file version is {version} but the minimum version required is 0.1.0")
    return documents


def prepare(home: Path) -> None:
    """Before the first start: the first configuration found is applied, and kept to be applied once more later on."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    places = ("/etc/microk8s.yaml", home / ".microk8s.yaml", COMMON / ".microk8s.yaml", SNAP / "microk8s.default.yaml")
    found = next(path for path in map(Path, places) if path.is_file())
    print(f"Found config file {found}, will use to initialize cluster.")
    text = found.read_text()
    write(FOLDER / "install.yaml", text)
    for part in parse(text):
        _apply_part(part, started=False)


def apply(text: str) -> None:
    """On a node that runs: with addons and join, and the services that have changed are restarted."""
    changed: set[str] = set()
    for part in parse(text):
        changed |= _apply_part(part, started=True)
    # This program is the cluster agent: it can only ask for its own restart.
    services.systemctl("restart", *sorted(changed), block=False)


def _microk8s(*words: str) -> None:
    done = subprocess.run([SNAP / "bin/microk8s", *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise LaunchError(f"microk8s {' '.join(words)}: {done.stdout}{done.stderr}")


def _apply_part(part: dict[str, Any], started: bool) -> set[str]:
    for addon in (part.get("addons") or []) if started else []:
        verb = "disable" if addon.get("disable") == "true" else "enable"
        _microk8s(verb, addon["name"], *(addon.get("args") or []))
    if part.get("persistentClusterToken"):
        path = CREDENTIALS / "persistent-cluster-tokens.txt"
        write(path, (path.read_text() if path.exists() else "") + part["persistentClusterToken"] + "\n")
    for name, content in (part.get("extraConfigFiles") or {}).items():
        write(ARGS / name, content)
    changed = set()
    for key, (file, service) in _ARGUMENTS.items():
        values = part.get(key)
        if values and arguments.update(file, values) and service:
            changed.add(service)
    if part.get("extraSANs") is not None:
        certificates.write_template(part["extraSANs"])
    for registry, hosts in (part.get("containerdRegistryConfigs") or {}).items():
        write(ARGS / "certs.d" / registry / "hosts.toml", hosts)
    join = part.get("join") or {}
    if started and join.get("url"):
        _microk8s("join", join["url"], *(["--worker"] if join.get("worker") == "true" else []))
    return changed
