"""microk8s status."""

from __future__ import annotations

import argparse
import sys

from . import addons, cluster
from .readiness import ready, wait_ready

_NOT_RUNNING = "microk8s is not running. Use microk8s inspect for a deeper inspection."


def status(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="microk8s status", description="Microk8s cluster status check.")
    parser.add_argument("--format", default="pretty", choices=["pretty", "yaml", "short"])
    parser.add_argument("-w", "--wait-ready", action="store_true")
    parser.add_argument("-t", "--timeout", type=int, default=0)
    parser.add_argument("-a", "--addon", default="all")
    given = parser.parse_args(words)
    is_ready = wait_ready(given.timeout) if given.wait_ready else ready()
    enabled, disabled = addons.states() if is_ready else ([], addons.CORE)
    if given.addon != "all":
        names = [name for a in enabled for name in (a.name, f"core/{a.name}")]
        print("enabled" if given.addon in names else "disabled")
    else:
        {"yaml": _yaml, "short": _short, "pretty": _pretty}[given.format](is_ready, enabled, disabled)
    if not is_ready:
        sys.exit(1)


def _short(is_ready: bool, enabled: list[addons.Addon], disabled: list[addons.Addon]) -> None:
    if not is_ready:
        print(_NOT_RUNNING)
        return
    print("microk8s is running\naddons:")
    for state, found in (("enabled", enabled), ("disabled", disabled)):
        for addon in found:
            print(f"core/{addon.name}: {state}")


def _yaml(is_ready: bool, enabled: list[addons.Addon], disabled: list[addons.Addon]) -> None:
    print(f"microk8s:\n  running: {is_ready}\nhigh-availability:\n  enabled: True\n  nodes:")
    for address, role in cluster.datastore_nodes():
        print(f"    - address: {address}\n      role: {role}")
    if not is_ready:
        print(f"  message: {_NOT_RUNNING}")
        return
    print("addons:")
    for state, found in (("enabled", enabled), ("disabled", disabled)):
        for addon in found:
            print(f"  - name: {addon.name}\n    repository: core\n    description: {addon.description}\n"
                  f"    version: {addon.version}\n    status: {state}")  # fmt: skip


def _pretty(is_ready: bool, enabled: list[addons.Addon], disabled: list[addons.Addon]) -> None:
    if not is_ready:
        print(_NOT_RUNNING)
        return
    nodes = cluster.datastore_nodes()
    voters = [address for address, role in nodes if role == "voter"]
    print("microk8s is running")
    print(f"high-availability: {'yes' if len(voters) > 2 else 'no'}")
    print(f"  datastore master nodes: {' '.join(voters) or 'none'}\n  datastore standby nodes: none\naddons:")
    for state, found in (("enabled", enabled), ("disabled", disabled)):
        if found:
            print(f"  {state}:")
        for addon in found:
            print(f"    {addon.name:<20} # (core) {addon.description}")
