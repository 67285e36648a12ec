"""add-node, join, leave, remove-node."""

from __future__ import annotations

import argparse
import hashlib
import http.client
import ipaddress
import json
import secrets
import shutil
import ssl
import sys
import time
from typing import Any

import yaml

from . import arguments, certificates, cni, services, tokens
from .network import addresses, default_address, hostname
from .snapenv import (
    ARGS,
    BACKEND,
    CERTS,
    CLUSTERED,
    JOIN_IN_PROGRESS,
    NO_CERT_REISSUE,
    PROVIDER,
    SNAP,
    clear_lock,
    kubectl,
    lock_file,
    locked,
    set_lock,
    write,
)

_FINGERPRINT_MINIMUM = 12
_WORKER_LABELS = "microk8s.io/cluster=true,node.kubernetes.io/microk8s-worker=microk8s-worker"
NO_DQLITE = "no-k8s-dqlite"
NO_PROXY = "no-apiserver-proxy"


# --- add-node --------------------------------------------------------------------------------------------------------


def add_node(words: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="microk8s add-node", description="Produce a connection string for a node to join the cluster."
    )
    parser.add_argument("--token-ttl", "-l", type=int, default=-1)
    parser.add_argument("--token", "-t")
    parser.add_argument(
        "--format", default="pretty", choices=["pretty", "short", "token", "token-check", "json", "yaml"]
    )
    given = parser.parse_args(words)
    token = given.token if given.token is not None else secrets.token_hex(16)
    if len(token) < tokens.MINIMUM:
        print("Invalid token size.  It must be 32 characters long.")
        sys.exit(1)
    tokens.add(token, tokens.CLUSTER, given.token_ttl)
    check = f"{token}/{certificates.fingerprint()}"
    port = arguments.get("cluster-agent", "--bind").rpartition(":")[2]
    first = f"microk8s join {default_address()}:{port}/{check}"
    info = {"token": check, "urls": [f"{ip}:{port}/{check}" for ip in addresses()]}
    if given.format == "token":
        print(token)
    elif given.format == "token-check":
        print(check)
    elif given.format == "json":
        print(json.dumps(info, indent=2))
    elif given.format == "yaml":
        print(yaml.dump(info, indent=2))
    elif given.format == "short":
        print("\n".join([first, *(f"microk8s join {url}" for url in info["urls"] if url not in first)]))
    else:
        print(f"From the node you wish to join to this cluster, run the following:\n{first}\n")
        print("Use the '--worker' flag to join a node as a worker not running the control plane, eg:")
        print(f"{first} --worker\n")
        print("If the node you are adding is not reachable through the default interface you can use one of the "
              "following:")  # fmt: skip
        for url in info["urls"]:
            print(f"microk8s join {url}")


# --- join ------------------------------------------------------------------------------------------------------------


def _connection(text: str) -> tuple[str, int, str, str]:
    """Address, port, token and fingerprint ("" if not given) of a connection string; ValueError names the fault."""
    parts = text.split("/")
    endpoint = parts[0].split(":")
    if len(parts) not in (2, 3) or len(endpoint) != 2:
        raise ValueError("Expected format: <master_IP>:<master_PORT>/<token>[/<fingerprint>]")
    try:
        ipaddress.ip_address(endpoint[0])
    except ValueError:
        raise ValueError("Invalid master IP") from None
    if not endpoint[1].isdigit():
        raise ValueError("Master PORT not a number")
    if not 1 <= int(endpoint[1]) <= 65535:
        raise ValueError("Master PORT not in range 1:65535")
    if len(parts[1]) < tokens.MINIMUM:
        raise ValueError(f"Cluster token size should be at least {tokens.MINIMUM} bytes")
    if len(parts) == 3 and len(parts[2]) < _FINGERPRINT_MINIMUM:
        raise ValueError(f"Fingerprint should be at least {_FINGERPRINT_MINIMUM} bytes")
    return endpoint[0], int(endpoint[1]), parts[1], parts[2] if len(parts) == 3 else ""


def _post(address: str, port: int, path: str, body: dict[str, Any], expected: str = "") -> tuple[int, dict[str, Any]]:
    """Status and answer. A refused connection is not caught: MicroK8s shows a traceback, too."""
    context = ssl._create_unverified_context()
    connection = http.client.HTTPSConnection(address, port, context=context, timeout=300)
    connection.connect()
    if expected:
        certificate = hashlib.sha256(connection.sock.getpeercert(True)).hexdigest()
        if not certificate.startswith(expected):
            print(f"Joining cluster failed. Could not verify the identity of {address}. "
                  "Use '--skip-verify' to skip server certificate check.")  # fmt: skip
            sys.exit(4)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read() or "{}")


def _signed(address: str, port: int, token: str, name: str, subject: str, names: bool) -> None:
    """certs/<name>.crt, signed by the head."""
    body = {"token": token, "request": certificates.request(name, subject, names)}
    status, answer = _post(address, port, "/cluster/api/v1.0/sign-cert", body)
    if status != 200:
        print(f"Failed to sign {name} certificate ({status}). {answer.get('error', '')}")
        sys.exit(1)
    write(CERTS / f"{name}.crt", answer["certificate"])


def join(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="microk8s join", description="Join the node to a cluster")
    parser.add_argument("connection")
    parser.add_argument("--worker", dest="worker", action="store_const", const="as-worker")
    parser.add_argument("--controlplane", dest="worker", action="store_const", const="as-master")
    parser.add_argument("--skip-verify", action="store_true")
    parser.add_argument("--disable-low-memory-guard", action="store_true")
    given = parser.parse_args(words)
    try:
        address, port, token, expected = _connection(given.connection)
    except ValueError as error:
        print("Invalid connection:", error)
        sys.exit(1)
    set_lock(JOIN_IN_PROGRESS)
    print(f"Contacting cluster at {address}", flush=True)
    body = {"token": token, "hostname": hostname(), "worker": given.worker or False,
            "port": arguments.get("cluster-agent", "--bind").rpartition(":")[2],
            "can_handle_x509_auth": True, "can_handle_custom_etcd": True}  # fmt: skip
    status, info = _post(address, port, "/cluster/api/v2.0/join", body, "" if given.skip_verify else expected)
    if status != 200:
        print(f"Connection failed. {info.get('error', '')} ({status}).")
        sys.exit(6)
    cidr = arguments.get("kube-proxy", "--cluster-cidr")
    if info["cluster_cidr"] != cidr:
        print("WARNING: Joining a cluster that has a different CIDR. "
              "The kube-proxy CIDR configuration will be overwritten.")  # fmt: skip
        print(f"Cluster CIDR: {info['cluster_cidr']} -- Node CIDR: {cidr}(will be overwritten)")
        arguments.update("kube-proxy", {"--cluster-cidr": info["cluster_cidr"]})
    _become_worker(info, address, port, token)
    clear_lock(JOIN_IN_PROGRESS)
    print("Successfully joined the cluster.")


def _become_worker(info: dict[str, Any], address: str, port: int, token: str) -> None:
    write(CERTS / "ca.remote.crt", info["ca"])
    # The head's arguments take the place of this node's own.
    write(ARGS / "kubelet", info["kubelet_args"])
    changes: dict[str, str | None] = {
        "--hostname-override": None,
        "--client-ca-file": "${SNAP_DATA}/certs/ca.remote.crt",
        "--node-labels": _WORKER_LABELS,
    }
    if arguments.get("kubelet", "--node-ip"):
        changes["--node-ip"] = info["hostname_override"]
    arguments.update("kubelet", changes)
    arguments.update("kube-proxy", {"--master": None, "--hostname-override": None})
    _signed(address, port, f"{token}-proxy", "proxy", "/CN=system:kube-proxy", names=False)
    node = f"/CN=system:node:{hostname()}/O=system:nodes"
    _signed(address, port, f"{token}-kubelet", "kubelet", node, names=True)
    certificates.create_worker_configs()
    write_provider([f"{address}:{info['apiport']}"])
    clear_lock(NO_PROXY)
    if not locked(CLUSTERED):
        cni.forget()
    set_lock(CLUSTERED)
    set_lock(NO_DQLITE)
    for service in ("kubelite", "apiserver-kicker", "apiserver-proxy", "k8s-dqlite"):
        services.systemctl("restart", service)
    set_lock(NO_CERT_REISSUE)
    print("""
The node has joined the cluster and will appear in the nodes list in a few seconds.

This worker node gets automatically configured with the API server endpoints.
If the API servers are behind a loadbalancer please set the '--refresh-interval' to '0s' in:
    /var/snap/microk8s/current/args/apiserver-proxy
and replace the API server endpoints with the one provided by the loadbalancer in:
    /var/snap/microk8s/current/args/traefik/provider.yaml
""")


def write_provider(endpoints: list[str]) -> None:
    """args/traefik/provider.yaml: the API servers that the proxy on a worker leads to."""
    router = {"rule": "HostSNI(`*`)", "service": "kube-apiserver", "tls": {"passthrough": True}}
    servers = [{"address": endpoint} for endpoint in endpoints]
    balanced = {"kube-apiserver": {"loadBalancer": {"servers": servers}}}
    write(PROVIDER, yaml.dump({"tcp": {"routers": {"Router-1": router}, "services": balanced}}))


# --- leave and remove-node -------------------------------------------------------------------------------------------


def leave(words: list[str]) -> None:
    argparse.ArgumentParser(prog="microk8s leave").parse_args(words)
    if not locked(NO_CERT_REISSUE) or not (locked(CLUSTERED) or (ARGS / "k8s-dqlite").exists()):
        print("This MicroK8s deployment is not acting as a node in a cluster.")
        sys.exit(1)
    if not locked(CLUSTERED):
        print("This node currently holds the only copy of the Kubernetes database so it cannot leave the cluster.")
        print("To remove this node you can either first remove all other nodes with 'microk8s remove-node' or")
        print("form a highly available cluster by adding at least three nodes.")
        sys.exit(3)
    print("Configuring services.", flush=True)
    set_lock(NO_PROXY)
    services.systemctl("stop", "apiserver-proxy", "kubelite", "k8s-dqlite")
    cni.forget()
    (CERTS / "ca.remote.crt").unlink(missing_ok=True)
    certificates.create_users()
    print("Generating new cluster certificates.", flush=True)
    new_datastore()
    for name in ("kubelet", "kube-proxy"):
        shutil.copyfile(SNAP / "default-args" / name, ARGS / name)
    for name in (NO_CERT_REISSUE, CLUSTERED, NO_DQLITE):
        clear_lock(name)
    for name in services.NAMES:
        services.systemctl("restart", name)
    print("Waiting for node to start.", end=" ", flush=True)
    deadline = time.monotonic() + 60
    while kubectl("get", "service/kubernetes").returncode != 0 or not cni.apply():
        if time.monotonic() > deadline:
            break
        print(".", end=" ", flush=True)
        time.sleep(2)
    print(" ")


def new_datastore() -> None:
    """An empty datastore that knows only loopback."""
    shutil.rmtree(BACKEND, ignore_errors=True)
    write(BACKEND / "info.yaml", "Address: 127.0.0.1:19001\nID: 1\nRole: 0\n")


def remove_node(words: list[str]) -> None:
    if not words:
        print("Please provide the node you want to remove.")
        sys.exit(1)
    if len(words) == 2 and words[1] != "--force":
        print("Please provide the node and the optional --force flag.")
        sys.exit(1)
    name = words[0]
    nodes = json.loads(kubectl("get", "nodes", "-o", "json", check=True).stdout)["items"]
    for node in nodes:
        if any(a == {"type": "InternalIP", "address": name} for a in node["status"]["addresses"]):
            name = node["metadata"]["name"]
    if name not in [node["metadata"]["name"] for node in nodes]:
        print(f"Node {name} does not exist in Kubernetes.")
        if len(words) == 2:
            print(f"Attempting to remove {name} from dqlite.")
        sys.exit(1)
    kubectl("delete", "node", name, check=True)


def datastore_nodes() -> list[tuple[str, str]]:
    """Address and role of each member; the double has one."""
    info = yaml.safe_load((BACKEND / "info.yaml").read_text())
    return [(info["Address"], "voter")]


def mark_new() -> None:
    """Locks of a node that has just been installed."""
    lock_file("x").parent.mkdir(parents=True, exist_ok=True)
    for name in ("ha-cluster", "lite.lock", NO_PROXY, "no-etcd", "no-flanneld"):
        set_lock(name)
