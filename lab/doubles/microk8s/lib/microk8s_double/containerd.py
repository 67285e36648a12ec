"""daemon-containerd: its configuration from the template at each start, and the import of sideloaded images."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from . import arguments, services
from .machine import cannot_protect_from_oom, die_with_parent
from .snapenv import ARGS, COMMON, CONTAINERD_SOCKET, DATA, SNAP, share

SIDELOAD = COMMON / "etc/sideload"
_POLL_S = 5
_STATE = COMMON / "run/containerd"
_BOOT = _STATE / "boot-id"


def _snapshotter() -> str:
    """overlayfs where it works; an overlay cannot lie on another one."""
    place = COMMON / "var/lib/containerd/.probe"
    shutil.rmtree(place, ignore_errors=True)
    for name in ("lower", "upper", "work", "merged"):
        (place / name).mkdir(parents=True)
    options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    mounted = subprocess.run(["mount", "-t", "overlay", "probe", "-o", options, place / "merged"], capture_output=True)
    if mounted.returncode == 0:
        subprocess.run(["umount", place / "merged"], check=True)
    shutil.rmtree(place, ignore_errors=True)
    return "overlayfs" if mounted.returncode == 0 else "native"


def _configure() -> None:
    values = {
        "SNAP_DATA": str(DATA),
        "SNAP_COMMON": str(COMMON),
        "SNAP": str(SNAP),
        "SNAPSHOTTER": _snapshotter(),
        "RUNTIME": "runc",
        "RUNTIME_TYPE": "io.containerd.runc.v2",
    }
    text = (ARGS / "containerd-template.toml").read_text()
    for name, value in values.items():
        text = text.replace(f"${{{name}}}", value)
    if cannot_protect_from_oom():
        # The lab's machine; the template does not show it.
        section = '[plugins."io.containerd.grpc.v1.cri"]\n'
        text = text.replace(section, f"{section}  restrict_oom_score_adj = true\n", 1)
    (ARGS / "containerd.toml").write_text(text)


def _forget_before_boot() -> None:
    """After a boot no shim of the state folder lives any more."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text() + Path("/proc/1/stat").read_text().split()[21]
    if not _BOOT.exists() or _BOOT.read_text() != boot:
        shutil.rmtree(_STATE, ignore_errors=True)
        _STATE.mkdir(parents=True)
        _BOOT.write_text(boot)


def _import_sideloaded() -> None:
    """Import archives as they appear, for ever; a file that cannot be imported is tried again."""
    SIDELOAD.mkdir(parents=True, exist_ok=True)
    ctr = [SNAP / "bin/ctr", f"--address={CONTAINERD_SOCKET}", "--namespace=k8s.io"]
    while True:
        for archive in sorted(SIDELOAD.glob("*.tar")):
            if not CONTAINERD_SOCKET.exists() or subprocess.run([*ctr, "version"], capture_output=True).returncode:
                time.sleep(0.2)
                break
            done = subprocess.run([*ctr, "images", "import", archive], capture_output=True, text=True)
            if done.returncode == 0:
                archive.rename(f"{archive}.loaded")
                print(f"sideload: imported {archive}", flush=True)
            else:
                print(f"sideload: {archive}: {done.stderr.strip()}", flush=True)
        else:
            time.sleep(_POLL_S)


def run() -> None:
    """Become containerd; a child imports images beside it until the unit stops."""
    _configure()
    _forget_before_boot()
    CONTAINERD_SOCKET.unlink(missing_ok=True)
    parent = os.getpid()
    if os.fork() == 0:
        die_with_parent()
        if os.getppid() != parent:
            sys.exit(0)
        _import_sideloaded()
    # A shell reads its environment, as in MicroK8s: what is no plain text there does what it says.
    script = 'set -a; . "$0"; set +a; exec "$@"'
    command = [ARGS / "containerd-env", SNAP / "bin/containerd", *arguments.read("containerd")]
    current = str(SNAP.parent / "current")
    environment = {**os.environ, "PATH": f"{current}/bin:{os.environ['PATH']}"}
    os.execve("/bin/bash", ["bash", "-c", script, *map(str, command)], environment)


def share_socket() -> None:
    """The group microk8s may use containerd."""
    if CONTAINERD_SOCKET.exists() and services.active("containerd"):
        share(CONTAINERD_SOCKET)
