"""What the snap's units run: `daemon NAME`."""

from __future__ import annotations

import os
import sys

from . import agent, arguments, cluster, containerd, kicker, kubelite, proxy
from .snapenv import SNAP, locked


def _datastore() -> None:
    """etcd in the place of k8s-dqlite: one member, on loopback, without a wait for the disk at each write."""
    if locked(cluster.NO_DQLITE):
        print("k8s-dqlite will not run on a worker")
        return
    url = arguments.get("k8s-dqlite", "--listen")
    # No other member exists; the peer's port is any that is free.
    peer = "http://127.0.0.1:0"
    words = [
        "etcd", "--data-dir", arguments.get("k8s-dqlite", "--storage-dir") + "etcd",
        "--listen-client-urls", url, "--advertise-client-urls", url,
        "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}",
        "--unsafe-no-fsync", "--log-level", "warn",
    ]  # fmt: skip
    os.execv(SNAP / "bin/etcd", words)


_DAEMONS = {
    "containerd": containerd.run,
    "k8s-dqlite": _datastore,
    "kubelite": kubelite.run,
    "cluster-agent": agent.run,
    "apiserver-kicker": kicker.run,
    "apiserver-proxy": proxy.run,
}


def main() -> None:
    _DAEMONS[sys.argv[1]]()
