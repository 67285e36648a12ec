"""The command `microk8s`."""

from __future__ import annotations

import os
import shlex
import sys
import time

from . import addons, arguments, cluster, services, status
from .network import default_address
from .snapenv import CLUSTERED, CREDENTIALS, SNAP, STOPPED, clear_lock, kubectl, locked, set_lock

_NODE = "This MicroK8s deployment is acting as a node in a cluster."


def _run(program: str, *words: str) -> None:
    os.execv(SNAP / program, [program.rpartition("/")[2], *words])


def _refuse_worker(text: str, code: int) -> None:
    if locked(CLUSTERED):
        print(text)
        sys.exit(code)


def _refuse_stopped() -> None:
    if locked(STOPPED):
        print("microk8s is not running, try microk8s start", file=sys.stderr)
        sys.exit(1)


def _refuse_stranger() -> None:
    if not os.access(CREDENTIALS / "client.config", os.R_OK):
        user = os.environ.get("USER", "")
        print(
            f"""\
Insufficient permissions to access MicroK8s.
You can either try again with sudo or add the user {user} to the 'microk8s' group:

    sudo usermod -a -G microk8s {user}
    sudo chown -R {user} ~/.kube

After this, reload the user groups either via a reboot or by running 'newgrp microk8s'.""",
            file=sys.stderr,
        )
        sys.exit(1)


def _status(words: list[str]) -> None:
    _refuse_worker(f"{_NODE}\nPlease use the control plane node.", 0)
    if locked(STOPPED):
        print("microk8s is not running, try microk8s start")
        sys.exit(0)
    status.status(words)


def _start(words: list[str]) -> None:
    del words
    _refuse_worker(f"{_NODE}\nUse 'snap start microk8s' to start services on this node.", 0)
    services.systemctl("enable", *services.NAMES)
    if not services.systemctl("start", *services.NAMES):
        print('Failed to start microk8s services. Check snapd logs with "journalctl -u snapd.service"')
        sys.exit(1)
    clear_lock(STOPPED)
    deadline = time.monotonic() + 120
    while kubectl("get", "nodes", "-o", "name").stdout == "" and time.monotonic() < deadline:
        time.sleep(1)


def _stop(words: list[str]) -> None:
    del words
    _refuse_worker(f"{_NODE}\nUse 'snap stop microk8s' to stop services on this node.", 0)
    if not services.systemctl("stop", "kubelite"):
        print('Failed to stop microk8s services. Check snapd logs with "journalctl -u snapd.service"')
        sys.exit(1)
    services.stop_containers()
    services.systemctl("disable", *services.NAMES)
    services.systemctl("stop", *services.NAMES)
    set_lock(STOPPED)
    print("Stopped.")


def _config(words: list[str]) -> None:
    _refuse_worker(f"{_NODE} Please use the microk8s config on the master.", 0)
    text = (CREDENTIALS / "client.config").read_text()
    loopback = "-l" in words or "--use-loopback" in words
    print(text if loopback else text.replace("127.0.0.1", default_address(), 1))


def _kubectl(words: list[str]) -> None:
    _refuse_worker(f"{_NODE} Please use the microk8s kubectl on the master.", 0)
    _refuse_stopped()
    os.environ["KUBECONFIG"] = str(CREDENTIALS / "client.config")
    _run("kubectl", *arguments.read("kubectl"), *words)


def _helm(words: list[str]) -> None:
    _refuse_worker(f"{_NODE} Please use the microk8s helm on the master.", 0)
    _refuse_stopped()
    _run("bin/helm", f"--kubeconfig={CREDENTIALS / 'client.config'}", *words)


def _ctr(words: list[str]) -> None:
    _run("bin/ctr", *arguments.read("ctr"), *words)


def _add_node(words: list[str]) -> None:
    _refuse_worker(f"{_NODE} Please use the microk8s add-node on the master.", 1)
    _refuse_stopped()
    cluster.add_node(words)


def _leave(words: list[str]) -> None:
    _refuse_stopped()
    cluster.leave(words)


def _remove_node(words: list[str]) -> None:
    _refuse_worker(f"{_NODE} Please use microk8s leave.", 1)
    cluster.remove_node(words)


def _addon(verb: str, words: list[str]) -> None:
    _refuse_worker(f"{_NODE}\nPlease use the master node.", 1)
    _refuse_stopped()
    addons.change(verb, words)


def _version(words: list[str]) -> None:
    del words
    print(f"MicroK8s {os.environ['SNAP_VERSION']} revision {os.environ['SNAP_REVISION']}")


_COMMANDS = {
    "add-node": _add_node,
    "config": _config,
    "ctr": _ctr,
    "disable": lambda words: _addon("disable", words),
    "enable": lambda words: _addon("enable", words),
    "helm": _helm,
    "helm3": _helm,
    "join": cluster.join,
    "kubectl": _kubectl,
    "leave": _leave,
    "remove-node": _remove_node,
    "start": _start,
    "status": _status,
    "stop": _stop,
    "version": _version,
}
# Those that MicroK8s has and the double has not.
_MISSING = ("addons", "dashboard-proxy", "dbctl", "images", "inspect", "istioctl", "kubectl-bin", "linkerd",
            "refresh-certs", "reset")  # fmt: skip


def _help() -> None:
    print("Available subcommands are:")
    for name in sorted(_COMMANDS):
        print(f"\t{name}")


def main() -> None:
    if len(sys.argv) < 2:
        _help()
        sys.exit(1)
    name, words = sys.argv[1], sys.argv[2:]
    if name in ("help", "--help", "-h"):
        _help()
    elif name in _MISSING:
        sys.exit(f"The lab's double of MicroK8s has no command {shlex.quote(name)}")
    elif name not in _COMMANDS:
        print(f"'{name}' is not a valid MicroK8s subcommand.")
        _help()
        sys.exit(1)
    else:
        _refuse_stranger()
        _COMMANDS[name](words)
