"""Plays a registry over a unix socket: the part of the distribution API that is used, with its checks."""

from __future__ import annotations

import hashlib
import json
import re
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


class FakeRegistry:
    """Blobs and manifests by repository. `log` has every request; `faults` change its behaviour."""

    def __init__(self, socket: Path) -> None:
        self.blobs: dict[str, dict[str, bytes]] = {}
        self.manifests: dict[str, dict[str, bytes]] = {}
        self.log: list[str] = []
        self.faults: set[str] = set()
        registry = self

        class Handler(_Handler):
            store = registry

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

            def handle_error(self, *_arguments: Any) -> None:
                """A client that has gone away is no error here."""

        self.server = Server(str(socket), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    store: FakeRegistry
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_arguments: Any) -> None:
        """Nothing."""

    def answer(self, status: int, body: bytes = b"", size: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if size is None else size))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_one(self) -> None:
        store = self.store
        store.log.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        if "broken" in store.faults:
            self.answer(500, b'{"errors": [{"code": "UNKNOWN", "message": "disk full"}]}')
        elif path == "/v2/":
            self.answer(200)
        elif path == "/v2/_catalog":
            self.answer(200, json.dumps({"repositories": sorted(store.manifests)}).encode())
        elif match := re.fullmatch(r"/v2/(.+)/tags/list", path):
            tags = [name for name in store.manifests.get(match[1], {}) if not name.startswith("sha256:")]
            self.answer(200, json.dumps({"tags": tags}).encode())
        elif match := re.fullmatch(r"/v2/(.+)/manifests/(.+)", path):
            self.manifest(match[1], match[2].replace("%3A", ":"), body)
        elif match := re.fullmatch(r"/v2/(.+)/blobs/uploads/(.*)", path):
            self.upload(match[1], match[2], query, body)
        elif match := re.fullmatch(r"/v2/(.+)/blobs/(sha256:.+)", path):
            found = store.blobs.get(match[1], {}).get(match[2])
            self.answer(404) if found is None else self.answer(200, size=len(found))
        else:
            self.answer(404)

    def manifest(self, repository: str, name: str, body: bytes) -> None:
        store = self.store
        if self.command == "PUT":
            document = json.loads(body)
            parts = [document["config"], *document["layers"]]
            if any(part["digest"] not in store.blobs.get(repository, {}) for part in parts):
                self.answer(400, b'{"errors": [{"code": "MANIFEST_BLOB_UNKNOWN", "message": "blob unknown"}]}')
                return
            if "forgets manifests" not in store.faults:
                store.manifests.setdefault(repository, {}).update({name: body, digest(body): body})
            self.answer(201, Docker_Content_Digest=digest(body))
            return
        found = store.manifests.get(repository, {}).get(name)
        if found is None:
            self.answer(404)
        else:
            self.answer(200, found, Docker_Content_Digest=digest(found))

    def upload(self, repository: str, session: str, query: str, body: bytes) -> None:
        values = dict(part.split("=", 1) for part in query.replace("%3A", ":").replace("%2F", "/").split("&") if part)
        blobs = self.store.blobs.setdefault(repository, {})
        if self.command == "POST":
            source = self.store.blobs.get(values.get("from", ""), {})
            if values.get("mount") in source:
                blobs[values["mount"]] = source[values["mount"]]
                self.answer(201)
            else:
                self.answer(202, Location=f"http://registry/v2/{repository}/blobs/uploads/one?state=x")
        elif self.command == "DELETE":
            self.answer(204)
        elif digest(body) != values["digest"]:
            self.answer(400, b'{"errors": [{"code": "DIGEST_INVALID", "message": "provided digest did not match"}]}')
        else:
            blobs[values["digest"]] = body
            self.answer(201)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one  # noqa: N815
