"""daemon-kubelite: the Kubernetes components of this node under one supervisor.

MicroK8s runs them as parts of one process. Here they are processes of one multi-call binary, and the unit behaves as
one process would: when one ends, all end, and systemd starts them again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from . import arguments
from .machine import cannot_protect_from_oom, die_with_parent
from .readiness import api_ready
from .snapenv import CLUSTERED, COMMON, CONTAINERD_SOCKET, SNAP, STOPPED, clear_lock, locked

_CONTROL_PLANE = ("kube-controller-manager", "kube-scheduler")
_NODE = ("kubelet", "kube-proxy")
_READY_TIMEOUT_S = 120
# kube-apiserver waits for watches that nobody reads any more; by then everything is written.
_STOP_TIMEOUT_S = 2
_MACHINE_CONFIG = COMMON / "run/kubelet-lab.json"


def _machine_arguments(component: str) -> list[str]:
    """What the lab's machine imposes, and its overlay needs; the files in args/ do not show it."""
    score = ["--oom-score-adj=0"] if cannot_protect_from_oom() else []
    if component == "kubelet":
        # The only way to tell kubelet that cgroup v1 is meant; command-line arguments win over this file.
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            # Image files are small and the disk is shared by all hosts: its filling up is not theirs to solve.
            "imageGCHighThresholdPercent": 100,
            # Who fills the disk and empties it again need not wait five minutes until pods may come back.
            "evictionPressureTransitionPeriod": "15s",
        }
        _MACHINE_CONFIG.parent.mkdir(parents=True, exist_ok=True)
        _MACHINE_CONFIG.write_text(json.dumps(config))
        return [f"--config={_MACHINE_CONFIG}", *score]
    if component == "kube-proxy":
        return ["--conntrack-max-per-core=0", "--conntrack-min=0", *score]
    if component == "kube-controller-manager":
        # The overlay takes each node's subnet from its podCIDR; Calico has an address management of its own.
        # Its own limit makes it take five seconds to start all controllers.
        return ["--allocate-node-cidrs=true", "--leader-elect=false", "--kube-api-qps=200", "--kube-api-burst=400"]
    if component == "kube-scheduler":
        return ["--leader-elect=false"]
    return []


def _start(component: str) -> subprocess.Popen:
    words = [*arguments.read(component), *_machine_arguments(component)]
    print(f"kubelite: starting {component}", flush=True)
    return subprocess.Popen([component, *words], executable=SNAP / "kubelite", preexec_fn=die_with_parent)


def _prepare_network() -> None:
    for name in ("net/ipv4/conf/all/forwarding", "net/bridge/bridge-nf-call-iptables"):
        path = Path("/proc/sys") / name
        if path.exists() and path.read_text().strip() != "1":
            path.write_text("1\n")


def _wait(condition, what: str) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"kubelite: {what} is not ready after {_READY_TIMEOUT_S} s")
        time.sleep(0.2)


def _end(running: list[subprocess.Popen], code: int) -> None:
    """End all components, then this process."""
    for process in running:
        process.terminate()
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    for process in running:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
    os._exit(code)


def run() -> None:
    """Run until a component ends or the unit is stopped."""
    worker = locked(CLUSTERED)
    arguments.update("kubelite", {"--start-control-plane": "false" if worker else "true"})
    clear_lock(STOPPED)
    _prepare_network()
    running: list[subprocess.Popen] = []
    signal.signal(signal.SIGTERM, lambda *_: _end(running, 0))
    if not worker:
        server = _start("kube-apiserver")
        running.append(server)
        _wait(lambda: server.poll() is not None or api_ready(), "kube-apiserver")
        running.extend(_start(component) for component in _CONTROL_PLANE)
    _wait(CONTAINERD_SOCKET.exists, "containerd")
    running.extend(_start(component) for component in _NODE)
    while all(process.poll() is None for process in running):
        time.sleep(0.5)
    for process in running:
        if process.poll() is not None:
            print(f"kubelite: {process.args[0]} ended with {process.returncode}", flush=True)
    _end(running, 1)
