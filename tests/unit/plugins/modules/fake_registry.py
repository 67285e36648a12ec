"""Plays a registry: the part of the distribution API that is used, with its checks."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socketserver
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class FakeRegistry:
    """Ours, over a unix socket. `log` has every request; `faults` change its behaviour."""

    def __init__(self, socket: Path) -> None:
        self._remember()

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

            def handle_error(self, *_arguments: Any) -> None:
                """A client that has gone away is no error here."""

        self._serve(Server(str(socket), self._handler()))

    def _remember(self) -> None:
        #: By repository.
        self.blobs: dict[str, dict[str, bytes]] = {}
        self.manifests: dict[str, dict[str, bytes]] = {}
        self.log: list[str] = []
        self.faults: set[str] = set()

    def _handler(self) -> type[_Handler]:
        return type("Handler", (_Handler,), {"store": self})

    def _serve(self, server: socketserver.BaseServer) -> None:
        self.server = server
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def refusal(self, _request: _Handler) -> dict[str, str] | None:
        """Headers with which a request is refused, None if it is let in."""
        return None

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class SiteRegistry(FakeRegistry):
    """A site's own over HTTPS, for one user: by password, or as Harbor by tokens, each for one repository."""

    def __init__(self, certificate: Path, username: str, password: str, tokens: bool) -> None:
        self._remember()
        self.credentials = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
        self.tokens = tokens
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        self.address = f"127.0.0.1:{server.server_port}"
        self._serve(server)

    def refusal(self, request: _Handler) -> dict[str, str] | None:
        given = request.headers.get("Authorization")
        if not self.tokens:
            return None if given == self.credentials else {"WWW_Authenticate": 'Basic realm="site"'}
        if request.path.startswith("/token?"):
            return None if given == self.credentials else {}
        scope = (request.path.split("/blobs/")[0].split("/manifests/")[0]).partition("/v2/")[2]
        if given == f"Bearer for-{scope}":
            return None
        return {"WWW_Authenticate": f'Bearer realm="https://{self.address}/token",service="site",scope="{scope}"'}


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
        refusal = store.refusal(self)
        if refusal is not None:
            self.answer(401, **refusal)
        elif path == "/token":
            scope = next((part[6:] for part in query.split("&") if part.startswith("scope=")), "")
            self.answer(200, json.dumps({"token": "for-" + scope.replace("%2F", "/")}).encode())
        elif "broken" in store.faults:
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
