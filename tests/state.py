"""What a deployment has made of hosts and cluster, in forms that can be compared."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from harness import HEAD, WORKERS, Deployment

_KINDS = (
    "namespaces,configmaps,secrets,services,serviceaccounts,deployments,daemonsets,statefulsets,jobs,persistentvolumeclaims,"
    "networkpolicies,roles,rolebindings,clusterroles,clusterrolebindings,storageclasses"
)
# Annotations in which controllers and kubectl note what they did last. MicroK8s applies its network by kubectl; an
# object that was deleted comes back from the play without kubectl's note.
_BOOKKEEPING = (
    "deployment.kubernetes.io/revision",
    "deprecated.daemonset.template.generation",
    "kubectl.kubernetes.io/last-applied-configuration",
)
# Annotations of pods that change with a certificate or with secrets.
_OF_SECRETS = ("gpuhub.io/certificate", "gpuhub.io/secrets")


def digest(deployment: Deployment) -> dict[str, str]:
    """A hash of every object of the cluster and of every file that the platform wrote, by name.

    Equal before and after what should change nothing in one deployment.
    """
    found = {}
    for item in deployment.objects(_KINDS):
        if not _is_helms_record(item):
            text = json.dumps([_content(item), item["metadata"].get("labels"), _annotations(item)], sort_keys=True)
            found[_name(item)] = hashlib.sha256(text.encode()).hexdigest()
    files = (
        "find /etc/microk8s.yaml /etc/gpuhub /var/snap/microk8s/current/args /var/lib/gpuhub -type f"
        " -not -path '/var/lib/gpuhub/volumes/*' -not -path '/var/lib/gpuhub/registry/*'"
        " -not -path '/var/lib/gpuhub/python/*'"
        # They name the start of each service and the generation of each workload, and a repair changes them.
        " -not -path '/var/lib/gpuhub/microk8s-arguments.json' -not -path '/var/lib/gpuhub/proof'"
        " -print0 | xargs -0 sha256sum"
    )
    for host in [HEAD, *WORKERS]:
        for line in deployment.on(host, files).splitlines():
            hashed, path = line.split(maxsplit=1)
            found[f"{host}:{path}"] = hashed
    return found


def outline(deployment: Deployment) -> dict[str, str]:
    """What two deployments with the same settings have in common, by name: objects, files, images, services.

    Left out is what is drawn anew for each deployment (keys, certificates, tokens, passwords, uids, addresses of
    services), and what only tells how often something was tried.
    """
    found = {}
    for item in deployment.objects(f"{_KINDS},persistentvolumes,nodes"):
        if _is_helms_record(item):
            continue
        name = _name(item)
        if item["kind"] == "PersistentVolume":
            claim = item["spec"]["claimRef"]
            name = f"PersistentVolume of {claim['namespace']}/{claim['name']}"
        text = json.dumps(_common(item), sort_keys=True)
        found[name] = found.get(name, "") + _without_drawn(text)
    for release in json.loads(deployment.on(HEAD, _HELM_LIST)):
        found[f"release {release['name']}"] = f"{release['status']} {release['chart']}"
    look = Path(__file__).with_name("outline_of_host.py").read_text()
    for host in [HEAD, *WORKERS]:
        for name, value in json.loads(deployment.on(host, f"python3 - <<'END'\n{look}\nEND")).items():
            found[f"{host}: {name}"] = value
    return found


def keep_outline(deployment: Deployment) -> None:
    """Write the outline onto the hosts' shared storage, so that it is saved with what it describes."""
    (deployment.shared() / _OUTLINE).write_text(json.dumps(outline(deployment)))


def kept_outline(deployment: Deployment, save: str) -> dict[str, str]:
    """The outline of a saved state."""
    return json.loads((deployment.shared(save) / _OUTLINE).read_text())


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What differs between two digests or outlines, one text each, for people."""
    lines = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, "(nothing)"), after.get(name, "(nothing)")
        if old != new:
            at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
            cut = slice(max(0, at - 60), at + 120)
            lines.append(f"{name}: {old[cut]!r} became {new[cut]!r}")
    return lines


_OUTLINE = "outline.json"
_HELM_LIST = (
    "/snap/microk8s/current/bin/helm --kubeconfig /var/snap/microk8s/current/credentials/client.config"
    " list --all-namespaces --all -o json"
)


def _is_helms_record(item: dict[str, Any]) -> bool:
    """One more after each upgrade, by design."""
    return item["kind"] == "Secret" and item["type"] == "helm.sh/release.v1"


def _name(item: dict[str, Any]) -> str:
    return f"{item['kind']} {item['metadata'].get('namespace', '')}/{item['metadata']['name']}"


def _content(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key not in ("metadata", "status")}


def _annotations(item: dict[str, Any]) -> dict[str, str]:
    return {key: value for key, value in item["metadata"].get("annotations", {}).items() if key not in _BOOKKEEPING}


def _common(item: dict[str, Any]) -> Any:
    """What is the same in every deployment of an object's definition."""
    kind, content, annotations = item["kind"], copy.deepcopy(_content(item)), _annotations(item)
    spec = content.get("spec", {})
    if kind == "Secret":
        content["data"] = sorted(content.get("data", {}))
    elif kind == "Service":
        # A stated address is the settings'; all others are drawn.
        if item["metadata"]["name"] not in ("kubernetes", "kube-dns") and spec.get("clusterIP") != "None":
            del spec["clusterIP"], spec["clusterIPs"]
    elif kind == "PersistentVolumeClaim":
        spec.pop("volumeName", None)
    elif kind == "PersistentVolume":
        for key in ("claimRef", "nodeAffinity"):
            spec.pop(key, None)
    elif kind == "Node":
        # Who joined first got the first part of the pods' network.
        content = {"taints": spec.get("taints"), "unschedulable": spec.get("unschedulable")}
        annotations = {}
    elif kind == "Namespace":
        content = {}
    elif kind in ("Deployment", "DaemonSet", "StatefulSet", "Job"):
        marks = spec["template"]["metadata"].get("annotations", {})
        for key in [key for key in marks if key.startswith("checksum/") or key in _OF_SECRETS]:
            marks[key] = "(of secrets too)"
    # Where the smoke test's first server happened to start.
    annotations = {key: value for key, value in annotations.items() if not key.endswith("selected-node")}
    return [content, item["metadata"].get("labels"), annotations]


def _without_drawn(text: str) -> str:
    """A JSON text without certificates, keys, the address of the worker that joined first, and uids of jobs."""
    text = re.sub(r"-----BEGIN .*?-----END [A-Z ]+-----", "(drawn)", text)
    text = re.sub(r"can-reach=[0-9.]+", "can-reach=(drawn)", text)
    return re.sub(r'(controller-uid": )"[0-9a-f-]+"', r'\1"(drawn)"', text)
