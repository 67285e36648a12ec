"""The snap's systemd units."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from .snapenv import COMMON, CONTAINERD_SOCKET, SNAP

NAMES = ("containerd", "k8s-dqlite", "kubelite", "cluster-agent", "apiserver-kicker", "apiserver-proxy")


def unit(name: str) -> str:
    return f"snap.microk8s.daemon-{name}.service"


def systemctl(verb: str, *names: str, block: bool = True) -> bool:
    """Ask systemd; True on success."""
    wait = [] if block else ["--no-block"]
    return subprocess.run(["systemctl", verb, *wait, *map(unit, names)], stderr=subprocess.DEVNULL).returncode == 0


def active(name: str) -> bool:
    return subprocess.run(["systemctl", "is-active", "--quiet", unit(name)]).returncode == 0


def stop_containers() -> None:
    """Kill every container and its shim; containerd must still run for the first half."""
    ctr = [SNAP / "bin/ctr", f"--address={CONTAINERD_SOCKET}", "--namespace=k8s.io"]
    if CONTAINERD_SOCKET.exists():
        listed = subprocess.run([*ctr, "tasks", "ls", "-q"], capture_output=True, text=True).stdout.split()
        for task in listed:
            subprocess.run([*ctr, "tasks", "kill", "-s", "SIGKILL", "-a", task], capture_output=True)
        if listed:
            subprocess.run([*ctr, "containers", "rm", *listed], capture_output=True)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"containerd-shim-runc-v2") and str(CONTAINERD_SOCKET).encode() in words:
            with suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)


def unmount_pods() -> None:
    """Take away what containerd and kubelet have mounted."""
    places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for place in reversed(places):
        if place.startswith((f"{COMMON}/run/", f"{COMMON}/var/lib/kubelet/", "/run/netns/cni-")):
            subprocess.run(["umount", "--lazy", place], capture_output=True)
