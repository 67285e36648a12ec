"""An API server with pods, nodes and leases: HTTP on loopback, lists in pages, watches with bookmarks, 410, cuts.

What it does not imitate: authentication, other fields and label selectors, patches.
"""

from __future__ import annotations

import asyncio
import copy
import json
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

_PATHS = {"/api/v1/pods": "pods", "/api/v1/nodes": "nodes"}
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/"


@dataclass
class _Watch:
    resource: str
    selector: str
    position: int
    # The resourceVersion of the last thing sent, to compare with what the client has taken in.
    sent: int
    writer: asyncio.StreamWriter
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    bookmarks: int = 0


class _CutError(Exception):
    pass


class ApiServer:
    """Change it with `put` and `delete`, disturb it with `cut`, `compact`, `up`, `silent` and `duplicates`."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self.reset()

    def reset(self) -> None:
        """As new, for the next history."""
        self.version = 100
        self.objects: dict[str, dict[str, dict]] = {"pods": {}, "nodes": {}}
        self.leases: dict[str, dict] = {}
        self._log: list[tuple[int, str, str, dict]] = []
        self._compacted = 0
        self.watches: list[_Watch] = []
        self.requests = 0  # under way, without watches
        self.bytes = 0  # sent
        self.up = True
        self.refuse_all = False  # a client that is being killed must not be served by a new connection
        self.silent: set[str] = set()  # resources whose requests are cut
        self.duplicates = False
        self.page: int | None = None

    async def __aenter__(self) -> ApiServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.hang_up()

    # The cluster's side

    def put(self, resource: str, obj: dict) -> None:
        """Create or change an object; the server keeps a copy of it."""
        known = obj["metadata"]["uid"] in self.objects[resource]
        self._record(resource, "MODIFIED" if known else "ADDED", obj)
        self.objects[resource][obj["metadata"]["uid"]] = self._log[-1][3]

    def delete(self, resource: str, uid: str) -> None:
        self._record(resource, "DELETED", self.objects[resource].pop(uid))

    def _record(self, resource: str, kind: str, obj: dict) -> None:
        self.version += 1
        obj = copy.deepcopy(obj)
        obj["metadata"]["resourceVersion"] = str(self.version)
        self._log.append((self.version, resource, kind, obj))
        for watch in self.watches:
            watch.changed.set()

    # Disturbances

    def hang_up(self) -> None:
        """Cut every connection without a word."""
        self.watches.clear()
        for writer in list(self._connections):
            writer.transport.abort()

    def cut(self, resource: str) -> None:
        """Cut the watches of one kind."""
        for watch in list(self.watches):
            if watch.resource == resource:
                self._forget(watch)
                watch.writer.transport.abort()

    def compact(self) -> None:
        """Forget all that has happened: older watches cannot be resumed."""
        self._compacted = self.version

    def bookmark(self) -> None:
        for watch in self.watches:
            watch.bookmarks += 1
            watch.changed.set()

    def drained(self, watch: _Watch) -> bool:
        """Whether all that there is has been sent to a watch."""
        return watch.position == len(self._log) and not watch.bookmarks

    # HTTP

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while await self._request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, _CutError):
            pass
        finally:
            self._connections.discard(writer)
            writer.transport.abort()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split("\r\n", 1)[0].split(" ")
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        url = urlsplit(target)
        if not self.up or self.refuse_all or _PATHS.get(url.path) in self.silent:
            raise _CutError
        query = dict(parse_qsl(url.query))
        self.requests += 1
        try:
            if query.get("watch"):
                await self._start_watch(reader, writer, _PATHS[url.path], query)
                return False
            status, answer = self._answer(method, url.path, query, body)
            content = _encode(answer)
            self._send(writer, self._head(status, f"Content-Length: {len(content)}") + content)
            await writer.drain()
        finally:
            self.requests -= 1
        return True

    @staticmethod
    def _head(status: int, header: str) -> bytes:
        phrase = HTTPStatus(status).phrase
        return f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\n{header}\r\n\r\n".encode()

    def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        self.bytes += len(data)
        writer.write(data)

    def _answer(self, method: str, path: str, query: dict, body: bytes) -> tuple[int, dict]:
        if path.startswith(_LEASES):
            return self._lease(method, path, body)
        items = [obj for obj in self.objects[_PATHS[path]].values() if _selected(obj, query.get("fieldSelector", ""))]
        metadata = {"resourceVersion": str(self.version)}
        if "continue" in query:
            version, begin = map(int, query["continue"].split("/"))
            if version != self.version:
                # This server keeps no old states, so a page of one that has changed has expired.
                return 410, {"kind": "Status", "code": 410, "message": "The provided continue parameter is too old"}
        else:
            begin = 0
        end = begin + min(int(query.get("limit", len(items) or 1)), self.page or len(items) or 1)
        if end < len(items):
            metadata["continue"] = f"{self.version}/{end}"
        return 200, {"metadata": metadata, "items": items[begin:end]}

    def _lease(self, method: str, path: str, body: bytes) -> tuple[int, dict]:
        if method == "GET":
            lease = self.leases.get(path)
            return (200, lease) if lease else (404, {"kind": "Status", "code": 404})
        lease = json.loads(body)
        if method == "POST":
            path = f"{path}/{lease['metadata']['name']}"
            if path in self.leases:
                return 409, {"kind": "Status", "code": 409}
        elif self.leases[path]["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"]:
            return 409, {"kind": "Status", "code": 409}
        self.version += 1
        lease["metadata"]["resourceVersion"] = str(self.version)
        self.leases[path] = lease
        return 200, lease

    async def _start_watch(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, resource: str, query: dict
    ) -> None:
        version = int(query["resourceVersion"])
        if version < self._compacted:
            content = json.dumps({"kind": "Status", "code": 410, "message": f"too old resource version: {version}"})
            # etcd finds out after the headers are sent, the watch cache before: both happen.
            if version % 2:
                self._send(writer, self._head(410, f"Content-Length: {len(content)}") + content.encode())
            else:
                self._send(writer, self._head(200, "Transfer-Encoding: chunked"))
                self._chunk(writer, "ERROR", json.loads(content))
                writer.write(b"0\r\n\r\n")
            await writer.drain()
            return
        self._send(writer, self._head(200, "Transfer-Encoding: chunked"))
        position = next((i for i, entry in enumerate(self._log) if entry[0] > version), len(self._log))
        watch = _Watch(resource, query.get("fieldSelector", ""), position, version, writer)
        self.watches.append(watch)
        self.requests -= 1
        hung_up = asyncio.ensure_future(reader.read())
        try:
            await self._stream(watch, hung_up)
        finally:
            self.requests += 1
            hung_up.cancel()
            self._forget(watch)

    def _forget(self, watch: _Watch) -> None:
        if watch in self.watches:
            self.watches.remove(watch)

    async def _stream(self, watch: _Watch, hung_up: asyncio.Future) -> None:
        """Send what has changed since the watch's version, then what changes, until the connection is cut."""
        while not watch.writer.transport.is_closing():
            while watch.position < len(self._log):
                version, resource, kind, obj = self._log[watch.position]
                watch.position += 1
                if resource == watch.resource and _selected(obj, watch.selector):
                    for _ in range(2 if self.duplicates else 1):
                        self._chunk(watch.writer, kind, obj)
                    watch.sent = version
            if watch.bookmarks:
                watch.bookmarks = 0
                watch.sent = self.version
                self._chunk(watch.writer, "BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}})
            await watch.writer.drain()
            watch.changed.clear()
            waiter = asyncio.ensure_future(watch.changed.wait())
            await asyncio.wait([waiter, hung_up], return_when=asyncio.FIRST_COMPLETED)
            waiter.cancel()
            if hung_up.done():
                hung_up.exception()
                return

    def _chunk(self, writer: asyncio.StreamWriter, kind: str, obj: dict) -> None:
        data = _encode({"type": kind, "object": obj}) + b"\n"
        self._send(writer, f"{len(data):x}\r\n".encode() + data + b"\r\n")


def _encode(value: dict) -> bytes:
    """Without white space, as Go writes it."""
    return json.dumps(value, separators=(",", ":")).encode()


def _selected(obj: dict, selector: str) -> bool:
    return selector != "spec.nodeName!=" or bool(obj["spec"].get("nodeName"))
