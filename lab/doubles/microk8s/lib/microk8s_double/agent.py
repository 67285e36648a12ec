"""cluster-agent: the TLS service that nodes join through, and the watch for launch configurations."""

from __future__ import annotations

import ipaddress
import json
import socket
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from . import arguments, certificates, cni, launch, services, tokens
from .readiness import api_ready
from .snapenv import ARGS, BACKEND, CERTS, NO_CERT_REISSUE, set_lock, write

_POLL_S = 5
# One join at a time changes the head's own files.
_join_lock = threading.Lock()


class RefusedError(Exception):
    """An answer other than 200: `args` are the status and the text."""


def _join(body: dict[str, Any], here: str, peer: str) -> dict[str, Any]:
    """POST cluster/api/v2.0/join. The token is used up before anything is looked at."""
    if not tokens.consume(body.get("token", ""), tokens.CLUSTER):
        raise RefusedError(500, "Invalid token")
    port = arguments.get("cluster-agent", "--bind").rpartition(":")[2]
    if body.get("port") != port:
        raise RefusedError(502, f"The port of the cluster agent port has to be set to {port}")
    if here == peer:
        raise RefusedError(503, f"The joining node has the same IP ({here}) as the node we contact")
    if not _prefers_addresses() and not _resolves(body["hostname"], peer):
        text = (
            f'The hostname ({body["hostname"]}) of the joining node does not resolve to the IP "{peer}". Refusing join'
        )
        raise RefusedError(400, text)
    if body.get("worker") not in (True, "as-worker"):
        raise RefusedError(500, "The lab's double of MicroK8s joins workers only: its datastore is a single etcd")
    with _join_lock:
        _publish_datastore(here)
        if cni.reach(peer):
            cni.apply()
        set_lock(NO_CERT_REISSUE)
    for component in ("kubelet", "proxy"):
        tokens.add(f"{body['token']}-{component}", tokens.REQUESTS)
    return {
        "ca": (CERTS / "ca.crt").read_text(),
        "ca_key": None,
        "callback_token": "",
        "apiport": arguments.get("kube-apiserver", "--secure-port"),
        "api_authz_mode": arguments.get("kube-apiserver", "--authorization-mode"),
        "kubelet_args": (ARGS / "kubelet").read_text(),
        "hostname_override": peer,
        "control_plane_nodes": [here],
        "cluster_cidr": arguments.get("kube-proxy", "--cluster-cidr"),
    }


def _prefers_addresses() -> bool:
    """Whether the API server reaches kubelets by address rather than by name; it does unless someone changed it."""
    kinds = arguments.get("kube-apiserver", "--kubelet-preferred-address-types").split(",")
    first = next((kind for kind in kinds if kind in ("InternalIP", "Hostname")), "Hostname")
    return first == "InternalIP"


def _resolves(name: str, address: str) -> bool:
    try:
        return address in {info[4][0] for info in socket.getaddrinfo(name, None)}
    except OSError:
        return False


def _publish_datastore(address: str) -> None:
    """At the first join the datastore leaves loopback and restarts. Ours only says so: etcd has no TLS here."""
    info = BACKEND / "info.yaml"
    if "127.0.0.1" in info.read_text():
        write(info, f"Address: {address}:19001\nID: 1\nRole: 0\n")
        services.systemctl("restart", "k8s-dqlite")
        deadline = time.monotonic() + 60
        while not api_ready():
            if time.monotonic() > deadline:
                raise RefusedError(500, "Failed to retrieve dqlite cluster nodes: the API server is not ready")
            time.sleep(0.3)


def _sign(body: dict[str, Any], here: str, peer: str) -> dict[str, Any]:
    """POST cluster/api/v1.0/sign-cert."""
    del here, peer
    if not tokens.consume(body.get("token", ""), tokens.REQUESTS):
        raise RefusedError(500, "Invalid token")
    return {"certificate": certificates.sign(body["request"])}


_ROUTES = {"/cluster/api/v2.0/join": _join, "/cluster/api/v1.0/sign-cert": _sign}


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        route = _ROUTES.get(self.path)
        host = (self.headers.get("Host") or "").rpartition(":")[0]
        status, answer = 404, {"error": "Not found"}
        if route:
            try:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
                ipaddress.ip_address(host)
                status, answer = 200, route(body, host, self.client_address[0])
            except RefusedError as refused:
                status, answer = refused.args[0], {"error": refused.args[1]}
            except (ValueError, KeyError, RuntimeError) as error:
                status, answer = 500, {"error": f"Failed: {error}"}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, form: str, *values: object) -> None:
        print(f"{self.client_address[0]} {form % values}", flush=True)


class _Server(ThreadingHTTPServer):
    daemon_threads = True


def _watch_launch_configurations() -> None:
    while True:
        for path in sorted(launch.FOLDER.glob("*.yaml")):
            try:
                launch.apply(path.read_text())
                path.rename(f"{path}.applied")
                print(f"Successfully applied {path}", flush=True)
            except Exception as error:  # the next round tries again, for ever, as MicroK8s does
                print(f"Failed to apply configuration file {path}: {error}", flush=True)
        time.sleep(_POLL_S)


def run() -> None:
    """Serve until killed."""
    if not (CERTS / "server.crt").exists():
        sys.exit("no server certificate")
    threading.Thread(target=_watch_launch_configurations, daemon=True).start()
    address, _, port = arguments.get("cluster-agent", "--bind").rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(arguments.get("cluster-agent", "--certfile"), arguments.get("cluster-agent", "--keyfile"))
    server = _Server((address, int(port)), _Handler)
    # A client that connects and says nothing must not hold up the others: each thread does its own handshake.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print(f"Starting cluster agent on https://{address}:{port}", flush=True)
    server.serve_forever()
