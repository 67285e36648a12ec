"""Images that a rendered chart will run, found without a cluster."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .image_reference import ImageReferenceError, normalise

_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")


class ChartError(Exception):
    """A rendered object from which images cannot be derived; the message names it."""


def images(documents: Iterable[Any], load: Callable[[str], Any]) -> list[str]:
    """Full references of all images in rendered objects, sorted, each once.

    Pods are found wherever they stand (workloads of any kind, lists, custom resources); the images that JupyterHub's
    chart hides in its Secret for the hub to start later are found there. `load` reads YAML. Raises ChartError.
    """
    found = set()
    for document in documents:
        if document is None:
            continue
        if not isinstance(document, dict) or not document.get("kind"):
            raise ChartError(f"rendered by the chart, but not an object of Kubernetes: {str(document)[:80]!r}")
        metadata = document.get("metadata")
        name = metadata.get("name", "") if isinstance(metadata, dict) else ""
        for text in (*_pod_images(document), *_secret_images(document, load)):
            try:
                found.add(normalise(text))
            except ImageReferenceError as error:
                raise ChartError(f"{document['kind']} {name}: {error}") from error
    return sorted(found)


def _pod_images(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _pod_images(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in _CONTAINERS and isinstance(item, list):
                for container in item:
                    if isinstance(container, dict) and container.get("image"):
                        yield str(container["image"])
            elif key == "volumes" and isinstance(item, list):
                for volume in item:
                    source = volume.get("image") if isinstance(volume, dict) else None
                    if isinstance(source, dict) and source.get("reference"):
                        yield str(source["reference"])
            else:
                yield from _pod_images(item)


def _secret_images(document: dict[str, Any], load: Callable[[str], Any]) -> Iterator[str]:
    """Images in ``values.yaml`` of a Secret: notebooks, and what stands beside them."""
    if document["kind"] != "Secret":
        return
    text = (document.get("stringData") or {}).get("values.yaml")
    encoded = (document.get("data") or {}).get("values.yaml")
    if text is None and encoded is not None:
        try:
            text = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise ChartError(f"Secret {document['metadata'].get('name')}: values.yaml is not base64") from error
    values = load(text) if text else None
    singleuser = values.get("singleuser") if isinstance(values, dict) else None
    if not isinstance(singleuser, dict):
        return
    yield from _image_value(singleuser.get("image"))
    metadata = singleuser.get("cloudMetadata")
    if not isinstance(metadata, dict) or metadata.get("blockWithIptables", True):
        network_tools = singleuser.get("networkTools")
        yield from _image_value(network_tools.get("image") if isinstance(network_tools, dict) else None)
    yield from _pod_images({"containers": _containers(singleuser.get("extraContainers"))})
    yield from _pod_images({"containers": _containers(singleuser.get("initContainers"))})
    for profile in singleuser.get("profileList") or ():
        yield from _profile_images(profile)


def _containers(value: Any) -> list[Any]:
    # Charts from 4.0 on take a dict as well as a list.
    return list(value.values()) if isinstance(value, dict) else list(value or ())


def _image_value(value: Any) -> Iterator[str]:
    """The ``{name, tag}`` of a chart's values."""
    if isinstance(value, dict) and value.get("name"):
        tag = value.get("tag")
        yield f"{value['name']}:{tag}" if tag not in (None, "") else str(value["name"])


def _profile_images(value: Any) -> Iterator[str]:
    """Images anywhere in a profile: in its override, or in the overrides of its options' choices."""
    if isinstance(value, list):
        for item in value:
            yield from _profile_images(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "kubespawner_override" and isinstance(item, dict):
                if isinstance(item.get("image"), str):
                    yield item["image"]
                for name in ("init_containers", "extra_containers"):
                    yield from _pod_images({"containers": _containers(item.get(name))})
            else:
                yield from _profile_images(item)
