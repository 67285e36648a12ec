"""The API server as the collector needs it: list, watch, and one Lease.

aiohttp on the raw API: the collector reads a dozen fields of two kinds of objects, so a generated client's models would
cost it more time and memory than all of its own work. httpx takes two to three times as much for a line or a lease.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# A watch is quiet between two bookmarks, which come about every minute. One that is quiet for longer is broken.
QUIET_SECONDS = 100
TIMEOUT_SECONDS = 30
# The server ends a watch after this time, in order.
WATCH_SECONDS = 600
PAGE = 500
OPEN, BOOKMARK, DELETED = "OPEN", "BOOKMARK", "DELETED"
# What a request ends with if the network or the server is to blame.
NETWORK_ERRORS = (aiohttp.ClientError, TimeoutError)


class GoneError(Exception):
    """The resourceVersion is too old, or is none of this server's: list again."""


class ConflictError(Exception):
    """Somebody else has changed the object."""


@dataclass(frozen=True)
class Resource:
    """A kind of objects in all namespaces, and which of them are wanted."""

    name: str
    path: str
    field_selector: str = ""


# Pods without a node hold nothing. Finished ones are wanted: they say when they finished.
PODS = Resource("pods", "/api/v1/pods", "spec.nodeName!=")
NODES = Resource("nodes", "/api/v1/nodes")


class KubeApi:
    """A client of one API server; `token` gives the bearer token of now. Raises NETWORK_ERRORS, and those above."""

    def __init__(self, session: aiohttp.ClientSession, token: Callable[[], str] | None = None) -> None:
        self._session, self._token = session, token

    async def close(self) -> None:
        await self._session.close()

    async def list(self, resource: Resource) -> tuple[list[dict], str]:
        """All objects as of one moment, and its resourceVersion."""
        objects, parameters = [], {"limit": str(PAGE)}
        while True:
            answer = await self._get(resource, parameters)
            objects += answer.get("items") or []
            token = answer["metadata"].get("continue")
            if not token:
                return objects, answer["metadata"]["resourceVersion"]
            parameters = {"limit": str(PAGE), "continue": token}

    async def version(self, resource: Resource) -> str:
        """The resourceVersion of now."""
        return (await self._get(resource, {"limit": "1"}))["metadata"]["resourceVersion"]

    async def _get(self, resource: Resource, parameters: dict[str, str]) -> dict:
        if resource.field_selector:
            parameters = {**parameters, "fieldSelector": resource.field_selector}
        async with self._request("GET", resource.path, params=parameters) as response:
            await _check(response)
            return await response.json()

    def _request(self, method: str, path: str, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {self._token()}"} if self._token else {}
        return self._session.request(method, path, headers=headers, **options)

    async def watch(self, resource: Resource, version: str) -> AsyncIterator[tuple[str, dict]]:
        """(type, object) of every change after a version, until the server or the network ends it.

        The first is (OPEN, {}): what happens from then on is sent as it happens.
        """
        parameters = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        if resource.field_selector:
            parameters["fieldSelector"] = resource.field_selector
        timeout = aiohttp.ClientTimeout(sock_connect=TIMEOUT_SECONDS, sock_read=QUIET_SECONDS)
        async with self._request("GET", resource.path, params=parameters, timeout=timeout) as response:
            await _check(response)
            yield OPEN, {}
            async for line in _lines(response):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    if status.get("code") in (410, 504):
                        raise GoneError(status.get("message", ""))
                    raise aiohttp.ClientPayloadError(str(status.get("message")))
                yield event["type"], event["object"]

    async def read_lease(self, namespace: str, name: str) -> dict | None:
        """A Lease, None if there is none yet."""
        async with self._request("GET", _lease(namespace, name)) as response:
            if response.status == 404:
                return None
            await _check(response)
            return await response.json()

    async def write_lease(self, namespace: str, name: str, lease: dict) -> dict:
        """Create a Lease, or replace the one that was read. ConflictError if it is another by now."""
        known = lease["metadata"].get("resourceVersion")
        method, path = ("PUT", _lease(namespace, name)) if known else ("POST", _lease(namespace, ""))
        async with self._request(method, path, json=lease) as response:
            if response.status == 409:
                raise ConflictError(f"lease {namespace}/{name}")
            await _check(response)
            return await response.json()


def _lease(namespace: str, name: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}".rstrip("/")


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status in (410, 504):
        text = await response.text()
        if response.status == 410 or "resource version" in text.lower():
            raise GoneError(text[:200])
    response.raise_for_status()


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Complete lines of any length; one that was cut off is no event."""
    parts: list[bytes] = []
    async for chunk in response.content.iter_any():
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            yield b"".join([*parts, line])
            parts = []
        if rest:
            parts.append(rest)


def _token() -> str:
    """The service account's token, which kubelet replaces from time to time."""
    return (_ACCOUNT / "token").read_text().strip()


def in_cluster() -> KubeApi:
    """The API server of the cluster that this process is a pod of."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    host = f"[{host}]" if ":" in host else host
    context = ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt"))
    connector = aiohttp.TCPConnector(ssl=context)
    return KubeApi(session(f"https://{host}:{port}", connector=connector), _token)


def session(url: str, **options: Any) -> aiohttp.ClientSession:
    """What a KubeApi needs; to be made where an event loop runs."""
    return aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(TIMEOUT_SECONDS), **options)
