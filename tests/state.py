"""What a deployment has made of hosts and cluster, in a form that can be compared."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from harness import HEAD, WORKERS, Deployment

_KINDS = (
    "namespaces,configmaps,secrets,services,serviceaccounts,deployments,daemonsets,statefulsets,persistentvolumeclaims,"
    "networkpolicies,roles,rolebindings,clusterroles,clusterrolebindings,storageclasses"
)
# Annotations in which controllers and kubectl note what they did last. MicroK8s applies its network by kubectl; an
# object that was deleted comes back from the play without kubectl's note.
_BOOKKEEPING = (
    "deployment.kubernetes.io/revision",
    "deprecated.daemonset.template.generation",
    "kubectl.kubernetes.io/last-applied-configuration",
)


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
        # It names the start of each service, and a repair may restart one.
        " -not -path '/var/lib/gpuhub/microk8s-arguments.json' -print0 | xargs -0 sha256sum"
    )
    for host in [HEAD, *WORKERS]:
        for line in deployment.on(host, files).splitlines():
            hashed, path = line.split(maxsplit=1)
            found[f"{host}:{path}"] = hashed
    return found


def _is_helms_record(item: dict[str, Any]) -> bool:
    """One more after each upgrade, by design."""
    return item["kind"] == "Secret" and item["type"] == "helm.sh/release.v1"


def _name(item: dict[str, Any]) -> str:
    return f"{item['kind']} {item['metadata'].get('namespace', '')}/{item['metadata']['name']}"


def _content(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key not in ("metadata", "status")}


def _annotations(item: dict[str, Any]) -> dict[str, str]:
    return {key: value for key, value in item["metadata"].get("annotations", {}).items() if key not in _BOOKKEEPING}
