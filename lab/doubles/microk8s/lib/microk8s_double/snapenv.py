"""Where this snap's files are, and the locks by which its parts tell each other what is going on."""

from __future__ import annotations

import grp
import os
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

SNAP = Path(os.environ["SNAP"])
DATA = Path(os.environ["SNAP_DATA"])
COMMON = Path(os.environ["SNAP_COMMON"])

ARGS = DATA / "args"
CERTS = DATA / "certs"
CREDENTIALS = DATA / "credentials"
BACKEND = DATA / "var/kubernetes/backend"
CNI_YAML = ARGS / "cni-network/cni.yaml"
CNI_PLUGIN = ARGS / "cni-network/10-calico.conflist"
PROVIDER = ARGS / "traefik/provider.yaml"
CONTAINERD_SOCKET = COMMON / "run/containerd.sock"

GROUP = "microk8s"
# Of a node that has joined as a worker.
CLUSTERED = "clustered.lock"
STOPPED = "stopped.lock"
NO_CERT_REISSUE = "no-cert-reissue"
JOIN_IN_PROGRESS = "join-in-progress"
CNI_LOADED = "cni-loaded"


def lock_file(name: str) -> Path:
    return DATA / "var/lock" / name


def locked(name: str) -> bool:
    return lock_file(name).exists()


def set_lock(name: str) -> None:
    lock_file(name).parent.mkdir(parents=True, exist_ok=True)
    lock_file(name).touch(0o700)


def clear_lock(name: str) -> None:
    lock_file(name).unlink(missing_ok=True)


def expand(text: str) -> str:
    """Replace $SNAP, ${SNAP_DATA} and the like."""
    return re.sub(r"\$\{?(SNAP(?:_[A-Z]+)?)\}?", lambda m: os.environ.get(m[1], m[0]), text)


def write(path: Path, text: str, mode: int = 0o660) -> None:
    """Replace a file whole; the group microk8s may read and write what MicroK8s writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.chmod(mode)
    share(partial)
    partial.replace(path)


def share(path: Path) -> None:
    with suppress(KeyError, PermissionError):
        shutil.chown(path, group=grp.getgrnam(GROUP).gr_gid)


def output(*command: object) -> str:
    """Standard output of a command; "" if it fails."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout if done.returncode == 0 else ""


def kubectl(*arguments: object, check: bool = False) -> subprocess.CompletedProcess:
    """kubectl as the administrator of this node's cluster."""
    return subprocess.run(
        [SNAP / "kubectl", f"--kubeconfig={CREDENTIALS / 'client.config'}", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=check,
    )
