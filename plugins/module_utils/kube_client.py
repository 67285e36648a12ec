"""The edge to the API server: the Kubernetes client as the modules use it."""

from __future__ import annotations

import builtins
import traceback
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import yaml
    from kubernetes import client, config
    from kubernetes.client.exceptions import ApiException
    from kubernetes.dynamic import DynamicClient
    from kubernetes.dynamic.exceptions import (
        ConflictError,
        DynamicApiError,
        NotFoundError,
        ResourceNotFoundError,
        UnprocessibleEntityError,
    )

    IMPORT_ERROR = None
except ImportError:
    IMPORT_ERROR = traceback.format_exc()

KUBECONFIG = "/var/snap/microk8s/current/credentials/client.config"
ARGUMENT_SPEC = {"kubeconfig": {"type": "path", "default": KUBECONFIG}}

Object = dict[str, Any]


class UnreachableError(Exception):
    """No API server answers; the text says where it was looked for and what to do."""


def require_library(module: AnsibleModule) -> None:
    """Fail unless the Kubernetes client is installed."""
    if IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=IMPORT_ERROR)


def connect(module: AnsibleModule) -> Cluster:
    """Return the cluster of the module's kubeconfig, or fail."""
    require_library(module)
    try:
        return Cluster(module.params["kubeconfig"])
    except UnreachableError as error:
        module.fail_json(msg=str(error))


class Cluster:
    """API calls by kind and name, with plain dicts in and out."""

    def __init__(self, kubeconfig: str) -> None:
        """Raise UnreachableError if the API server does not answer."""
        try:
            self._api = config.new_client_from_config(kubeconfig)
            self._client = DynamicClient(self._api)
        except Exception as error:
            raise UnreachableError(
                f"cannot reach the API server by {kubeconfig}: {error}. "
                "Is MicroK8s running on this host (microk8s status)?"
            ) from error

    def _resource(self, item: Object) -> Any:
        return self._client.resources.get(api_version=item["apiVersion"], kind=item["kind"])

    def knows(self, item: Object) -> bool:
        """Whether the API server has this kind."""
        try:
            self._resource(item)
        except ResourceNotFoundError:
            return False
        return True

    def namespaced(self, item: Object) -> bool:
        """Whether objects of this kind live in a namespace."""
        return bool(self._resource(item).namespaced)

    def get(self, item: Object) -> Object | None:
        """Return the live object of the same kind, namespace and name, or None."""
        metadata = item["metadata"]
        try:
            return self._resource(item).get(name=metadata["name"], namespace=metadata.get("namespace")).to_dict()
        except NotFoundError:
            return None

    def list(self, api_version: str, kind: str, **selectors: Any) -> builtins.list[Object]:
        """Return all objects of a kind; `selectors` are namespace, label_selector, field_selector."""
        found = self._resource({"apiVersion": api_version, "kind": kind}).get(**selectors).to_dict()
        return [{"apiVersion": api_version, "kind": kind, **item} for item in found["items"]]

    def log(self, namespace: str, pod: str, container: str, previous: bool, lines: int) -> str:
        """Return the last lines of a container's log, or of the one before its last restart; at most 64 KiB."""
        return client.CoreV1Api(self._api).read_namespaced_pod_log(
            pod, namespace, container=container, previous=previous, tail_lines=lines, limit_bytes=1 << 16
        )

    def create(self, item: Object, dry_run: bool) -> Object:
        """Create an object and return it as the server stored it, or would store it."""
        namespace = item["metadata"].get("namespace")
        return self._resource(item).create(body=item, namespace=namespace, **_query(dry_run)).to_dict()

    def replace(self, item: Object, dry_run: bool) -> Object:
        """PUT an object and return it as the server stored it, or would store it."""
        namespace = item["metadata"].get("namespace")
        return self._resource(item).replace(body=item, namespace=namespace, **_query(dry_run)).to_dict()

    def delete(self, item: Object) -> None:
        """Delete an object and what it owns; one that is gone already is no error."""
        metadata = item["metadata"]
        try:
            self._resource(item).delete(
                name=metadata["name"], namespace=metadata.get("namespace"), body={"propagationPolicy": "Background"}
            )
        except NotFoundError:
            return


def _query(dry_run: bool) -> dict[str, Any]:
    return {"query_params": [("dryRun", "All")]} if dry_run else {}


def documents(text: str) -> list[Any]:
    """Return the documents of a YAML or JSON text."""
    return list(yaml.safe_load_all(text))


def is_conflict(error: Exception) -> bool:
    """Whether somebody else changed or created the object meanwhile."""
    return IMPORT_ERROR is None and isinstance(error, ConflictError)


def is_invalid(error: Exception) -> bool:
    """Whether the API server refuses the object as such: one of its fields is wrong or cannot be changed."""
    return IMPORT_ERROR is None and isinstance(error, UnprocessibleEntityError)


def explain(error: Exception) -> str:
    """Return the API server's own words for an error."""
    if isinstance(error, DynamicApiError):
        try:
            return str(error.summary())
        except Exception:
            return str(error)
    if IMPORT_ERROR is None and isinstance(error, ApiException):
        return f"{error.status} {error.reason}: {error.body}"
    return str(error)
