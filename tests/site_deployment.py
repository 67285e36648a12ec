"""One deployment with what a site has: firewalls that are active, HTTPS, a settings file of an older installation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from harness import HEAD, PATIENCE, WORKERS, Deployment

ADDRESSES = {HEAD: "10.77.0.11", WORKERS[0]: "10.77.0.12", WORKERS[1]: "10.77.0.13"}
UFW, FIREWALLD = [HEAD, WORKERS[0]], WORKERS[1]
# The network that clients may come from. The bastion has two addresses: connections come from the first, in that
# network, unless they ask for the other one, which is not.
CLIENT, NAMED, STRANGER = "10.77.0.200", "10.77.0.192/26", "10.77.0.1"
NAME = "hub.example.com"
SINGLEUSER = "quay.io/jupyterhub/k8s-singleuser-sample:4.4.0"
OTHER_PORT = 30099
UNBUILT = ["USE_GPU_OPERATOR", "ENABLE_IB", "ENABLE_IDLE_CULLER"]
FILE = ("-e", "gpuhub_env_file=tests/e2e/data/jhub.env")
# The portal that the file names is nowhere.
IGNORE = ("-e", json.dumps({"gpuhub_env_ignore": [*UNBUILT, "ENABLE_USAGE_LIMIT_ENFORCER"]}))
HTTPS = ("-enginx_enabled=true", f"-enginx_server_name={NAME}")
OBJECTS = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"talk-{worker}", "labels": {"talk": worker}},
            "spec": {
                "nodeName": worker,
                "terminationGracePeriodSeconds": 0,
                "containers": [
                    {"name": "talk", "image": SINGLEUSER, "command": ["python3", "-m", "http.server", "8000"]}
                ],
            },
        }
        for worker in WORKERS
    ]
    + [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": f"talk-{worker}"},
            "spec": {
                "type": "NodePort",
                "selector": {"talk": worker},
                "ports": [{"port": 80, "targetPort": 8000, "nodePort": OTHER_PORT + number}],
            },
        }
        for number, worker in enumerate(WORKERS)
    ],
}


def named(*networks: str) -> tuple[str, str]:
    """Settings of the networks that clients may come from."""
    return "-e", json.dumps({"firewall_client_networks": networks})


EVERYTHING = (*FILE, *IGNORE, *HTTPS, *named(NAMED))


def rules(deployment: Deployment) -> dict[str, str]:
    """Everything that the firewalls of the hosts hold, in their files and as it runs, by host and name."""
    script = """
        cat /etc/ufw/*.rules /etc/ufw/*.conf /etc/default/ufw; ufw show added
        find /etc/firewalld -type f | sort | xargs sha256sum
        if systemctl -q is-active firewalld; then
          firewall-cmd --list-all-zones; firewall-cmd --list-all-policies; firewall-cmd --direct --get-all-rules
        fi
        nft list table inet gpuhub 2>&1; ls /etc/systemd/system/gpuhub-* /etc/gpuhub/*.nft 2>&1
        iptables-save -t filter | grep -e '^-A ufw' -e '-j ufw' | sort
    """
    return {host: deployment.on(host, script, check=False) for host in ADDRESSES}


def reaches(deployment: Deployment, address: str, port: int, source: str) -> bool:
    """Whether a TCP connection comes about from a host of the lab, or from an address of the bastion."""
    code = f"import socket; socket.create_connection(('{address}', {port}), 2, ('{ADDRESSES.get(source, source)}', 0))"
    where = ("exec", source) if source in ADDRESSES else ("run",)
    try:
        deployment.lab(*where, "python3", "-c", code)
    except AssertionError:
        return False
    return True


def fetch(deployment: Deployment, worker: str, url: str) -> bool:
    """Whether a pod on a worker gets an answer with status 200."""
    code = f"import urllib.request; assert urllib.request.urlopen('{url}', timeout=5).status == 200"
    try:
        deployment.kubectl("exec", f"talk-{worker}", "--", "python3", "-c", code)
    except AssertionError:
        return False
    return True


@contextmanager
def firewalls_of_the_site(deployment: Deployment) -> Iterator[dict[str, str]]:
    """Firewalls that allow SSH and nothing else, and pods that answer each other; what the former hold."""
    route = ("run", "ip", "route", "replace", "10.77.0.0/24", "dev", "br0", "src")
    deployment.lab("run", "ip", "address", "add", f"{CLIENT}/24", "dev", "br0")
    deployment.lab(*route, CLIENT)
    try:
        deployment.kubectl("apply", "-f", "-", stdin=json.dumps(OBJECTS))
        deployment.kubectl("wait", "--for=condition=Ready", "pod", "-l", "talk", f"--timeout={PATIENCE}s")
        assert fetch(deployment, WORKERS[0], f"http://talk-{WORKERS[1]}")
        for host in UFW:
            deployment.on(
                host, "ufw allow 22/tcp && ufw limit from 10.77.0.99 comment 'by the site' && ufw --force enable"
            )
        deployment.on(FIREWALLD, "systemctl enable --now firewalld && firewall-cmd --state")
        yield rules(deployment)
    finally:
        for host in UFW:
            deployment.on(host, "ufw disable")
        deployment.on(FIREWALLD, "systemctl disable --now firewalld")
        deployment.lab(*route, STRANGER)
        deployment.lab("run", "ip", "address", "del", f"{CLIENT}/24", "dev", "br0")
        deployment.kubectl("delete", "--wait=false", "-f", "-", stdin=json.dumps(OBJECTS))
