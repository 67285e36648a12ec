"""Addresses of this host."""

from __future__ import annotations

import json
import socket

from .snapenv import output

# Interfaces of pod networks.
_POD_INTERFACES = ("vxlan.calico", "flannel.", "cni", "veth", "cali")


def hostname() -> str:
    return socket.gethostname().lower()


def addresses() -> list[str]:
    """IPv4 addresses of the host, without those of loopback and of the pod network."""
    found = json.loads(output("ip", "-j", "-4", "address") or "[]")
    return [
        info["local"]
        for link in found
        if link["ifname"] != "lo" and not link["ifname"].startswith(_POD_INTERFACES)
        for info in link["addr_info"]
        if not info["local"].startswith("169.254.")
    ]


def default_address() -> str:
    """The address of the interface with the default route; "none" without one."""
    for route in json.loads(output("ip", "-j", "route", "show", "default") or "[]"):
        links = json.loads(output("ip", "-j", "-4", "address", "show", "dev", route["dev"]) or "[]")
        for info in (info for link in links for info in link.get("addr_info", [])):
            return info["local"]
    return "none"
