"""microk8s enable and disable, for the two addons that the double has."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import arguments, services
from .readiness import api_ready, wait_ready
from .snapenv import SNAP, kubectl


@dataclass(frozen=True)
class Addon:
    name: str
    version: str
    description: str
    # What `kubectl get all` or the list of cluster roles shows while it is enabled.
    check: str


CORE = [
    Addon("dns", "1.12.3", "CoreDNS", "pod/coredns"),
    Addon("ha-cluster", "", "Configure high availability on the current node", ""),
    Addon("helm", "3", "Helm - the package manager for Kubernetes", ""),
    Addon("helm3", "3", "Helm 3 - the package manager for Kubernetes", ""),
    Addon("hostpath-storage", "1.5.0", "Storage class; allocates storage from host directory",
          "deployment.apps/hostpath-provisioner"),
    Addon("metrics-server", "0.8.0", "K8s Metrics Server for API access to service metrics",
          "deployment.apps/metrics-server"),
    Addon("nvidia", "25.3.4", "NVIDIA hardware (GPU and network) support",
          "daemonset.apps/nvidia-device-plugin-daemonset"),
    Addon("rbac", "", "Role-Based Access Control for authorisation",
          "clusterrole.rbac.authorization.k8s.io/cluster-admin"),
]  # fmt: skip


def states() -> tuple[list[Addon], list[Addon]]:
    """The enabled ones and the others, found by what runs in the cluster."""
    listed = kubectl("get", "all,ingress,ingressclass", "--all-namespaces").stdout
    listed += kubectl("get", "clusterroles", "--show-kind", "--no-headers").stdout
    enabled = [a for a in CORE if not a.check or a.check in listed]
    return enabled, [a for a in CORE if a not in enabled]


def change(verb: str, words: list[str]) -> None:
    """`verb` is enable or disable; `words` NAME[:ARGUMENT] with an optional repository `core/`."""
    if not words:
        print(f"Usage: microk8s {verb} [OPTIONS] ADDONS...")
        sys.exit(2)
    name, _, argument = words[0].partition(":")
    repository, slash, bare = name.rpartition("/")
    known = {addon.name for addon in CORE}
    if not slash:
        if name not in known:
            print(f"Addon {name} was not found in any repository", file=sys.stderr)
            sys.exit(1)
        print(f"Infer repository core for addon {name}", file=sys.stderr)
    elif repository != "core" or bare not in known:
        print(f"Addon {name} not found")
        return
    enabled, disabled = states()
    if bare in [addon.name for addon in (enabled if verb == "enable" else disabled)]:
        print(f"Addon core/{bare} is already {verb}d")
        return
    wait_ready(30, with_node=False)
    action = _ACTIONS.get((verb, bare))
    if not action:
        print(f"The lab's double of MicroK8s cannot {verb} the addon {bare}")
        sys.exit(1)
    action(argument or " ".join(words[1:]))
    wait_ready(30, with_node=False)


def _restart_kubelite() -> None:
    services.systemctl("restart", "kubelite")
    deadline = time.monotonic() + 60
    while not api_ready() and time.monotonic() < deadline:
        time.sleep(0.5)


def _enable_rbac(argument: str) -> None:
    del argument
    print("Enabling RBAC\nReconfiguring apiserver", flush=True)
    if arguments.update("kube-apiserver", {"--authorization-mode": "RBAC,Node"}):
        print("Restarting apiserver", flush=True)
        _restart_kubelite()
    print("RBAC is enabled")


def _disable_rbac(argument: str) -> None:
    del argument
    print("Disabling RBAC\nReconfiguring apiserver", flush=True)
    arguments.update("kube-apiserver", {"--authorization-mode": "AlwaysAllow"})
    _restart_kubelite()
    print("Removing default RBAC resources", flush=True)
    defaults = "--selector=kubernetes.io/bootstrapping=rbac-defaults"
    for kind in ("rolebindings", "roles"):
        kubectl("delete", kind, "--all-namespaces", defaults)
    for kind in ("clusterrolebindings", "clusterroles"):
        kubectl("delete", kind, defaults)
    print("RBAC is disabled")


def _nameservers(argument: str) -> str:
    if argument and argument != "/etc/resolv.conf":
        for server in argument.replace(",", " ").split():
            if subprocess.run(["ip", "route", "get", server], capture_output=True).returncode != 0:
                print(f"Your input value ({server}) is not a valid and reachable IP address")
                sys.exit(1)
        servers = " ".join(argument.replace(",", " ").split())
        print(f"Will use  {servers} as upstream nameservers")
        return servers
    configured = Path(arguments.get("kubelet", "--resolv-conf") or "/etc/resolv.conf")
    found = [line.split()[1] for line in configured.read_text().splitlines() if line.startswith("nameserver ")]
    if any(not server.startswith("127.") for server in found):
        print(f"Using host configuration from {configured}")
        return "/etc/resolv.conf"
    print("No valid resolv.conf file could be found\nFalling back to 8.8.8.8 8.8.4.4 as upstream nameservers")
    return "8.8.8.8 8.8.4.4"


def _dns_manifest(servers: str, address: str) -> str:
    text = (SNAP / "manifests/coredns.yaml").read_text()
    text = text.replace("$NAMESERVERS", servers).replace("$CLUSTERDOMAIN", "cluster.local")
    return text.replace("  clusterIP: $DNSIP\n", f"  clusterIP: {address}\n" if address else "")


def _kubectl_stdin(text: str, *words: str) -> None:
    done = subprocess.run([SNAP / "bin/microk8s", "kubectl", *words], input=text, text=True)
    if done.returncode != 0:
        sys.exit(done.returncode)


def _enable_dns(argument: str) -> None:
    print("Enabling DNS")
    servers = _nameservers(argument)
    default_services = arguments.get("kube-apiserver", "--service-cluster-ip-range") == "10.152.183.0/24"
    print("Applying manifest", flush=True)
    manifest = _dns_manifest(servers, "10.152.183.10" if default_services else "")
    _kubectl_stdin(manifest, "apply", "-f", "-")
    asked = kubectl("get", "service", "-n", "kube-system", "kube-dns", "-o", "jsonpath={.spec.clusterIP}", check=True)
    print(f"CoreDNS service deployed with IP address {asked.stdout}")
    if arguments.update("kubelet", {"--cluster-domain": "cluster.local", "--cluster-dns": asked.stdout}):
        print("Restarting kubelet", flush=True)
        _restart_kubelite()
    print("DNS is enabled")


def _disable_dns(argument: str) -> None:
    del argument
    print("Disabling DNS\nReconfiguring kubelet\nRemoving DNS manifest", flush=True)
    manifest = _dns_manifest("/etc/resolv.conf", "")
    _kubectl_stdin(manifest, "delete", "--ignore-not-found", "-f", "-")
    if arguments.update("kubelet", {"--cluster-domain": None, "--cluster-dns": None}):
        _restart_kubelite()
    print("DNS is disabled")


_ACTIONS = {
    ("enable", "rbac"): _enable_rbac,
    ("disable", "rbac"): _disable_rbac,
    ("enable", "dns"): _enable_dns,
    ("disable", "dns"): _disable_dns,
}
