"""Compare Kubernetes objects as they should be with objects as they are. Pure; objects are plain dicts."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from typing import Any

Object = dict[str, Any]

# Written by the API server alone; two objects that differ only here are equal.
_SERVER_METADATA = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")
# The API server refuses to change their spec and fills it in itself: what is not stated stays as it is.
_FIXED_SPEC = ("PersistentVolumeClaim", "PersistentVolume", "Job")


class KubeCompareError(Exception):
    """A definition that cannot be compared; the text names the object."""


def identity(item: Object) -> str:
    """Name of an object for people: `Kind namespace/name` or `Kind name`."""
    metadata = item.get("metadata", {})
    namespace = metadata.get("namespace")
    return f"{item.get('kind')} {namespace + '/' if namespace else ''}{metadata.get('name')}"


def validate(items: Iterable[Any]) -> list[Object]:
    """Return the objects of `items` without empty documents; raise KubeCompareError for what is no object."""
    result = []
    for number, item in enumerate(items, start=1):
        if item is None:
            continue
        if not isinstance(item, dict):
            raise KubeCompareError(f"document {number} is a {type(item).__name__}, not a Kubernetes object")
        missing = [key for key in ("apiVersion", "kind") if not item.get(key)]
        if not item.get("metadata", {}).get("name"):
            missing.append("metadata.name")
        if missing:
            raise KubeCompareError(f"document {number} ({identity(item)}) lacks {', '.join(missing)}")
        result.append(item)
    return result


def _overlay(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return {key: _overlay(below.get(key), above.get(key, below.get(key))) for key in {**below, **above}}
    return above


def replacement(live: Object, wanted: Object) -> Object:
    """Return the object to PUT so that `live` becomes `wanted`.

    Labels, annotations, finalizers and owners that others have put on the live object stay; everything else is
    exactly what `wanted` says, so that a field somebody added by hand goes away.
    """
    result = copy.deepcopy(wanted)
    metadata, present = result["metadata"], live["metadata"]
    for key in ("labels", "annotations"):
        merged = {**(present.get(key) or {}), **(metadata.get(key) or {})}
        if merged:
            metadata[key] = merged
    for key in ("finalizers", "ownerReferences"):
        if key in present:
            metadata.setdefault(key, present[key])
    metadata["resourceVersion"] = present["resourceVersion"]
    if result["kind"] in _FIXED_SPEC and "spec" in live:
        result["spec"] = _overlay(live["spec"], result.get("spec", {}))
    if result["kind"] == "ServiceAccount":
        for key in ("secrets", "imagePullSecrets"):
            if key in live:
                result.setdefault(key, live[key])
    return result


def comparable(item: Object) -> Object:
    """Return `item` without status and without the metadata that only the API server writes."""
    result = {key: value for key, value in item.items() if key not in ("status", "stringData")}
    result["metadata"] = {key: value for key, value in item["metadata"].items() if key not in _SERVER_METADATA}
    return result


def printable(item: Object) -> Object:
    """Return `comparable(item)` with every value of a Secret replaced by a short hash of it."""
    result = comparable(item)
    if result.get("kind") == "Secret":
        for key in ("data", "stringData"):
            values = result.get(key) or {}
            if values:
                result[key] = {name: _masked(value) for name, value in values.items()}
    return result


def _masked(value: Any) -> str:
    return f"(secret, sha256 {hashlib.sha256(str(value).encode()).hexdigest()[:12]})"


def owned_by_release(item: Object, name: str, namespace: str) -> Object:
    """Return `item` as Helm itself creates it for release `name`: with its namespace, label and annotations."""
    result = copy.deepcopy(item)
    metadata = result["metadata"]
    metadata.setdefault("labels", {})["app.kubernetes.io/managed-by"] = "Helm"
    annotations = metadata.setdefault("annotations", {})
    annotations["meta.helm.sh/release-name"] = name
    annotations["meta.helm.sh/release-namespace"] = namespace
    return result
