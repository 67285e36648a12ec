"""The lab's network: a switch with no way out, which counts what wanted to get out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .instance import GATEWAY, Instance, address, number
from .process import sh

# Every packet that goes to none of these is an attempt to reach the outside: hosts, pods, services, loopback,
# link-local multicast, broadcast and the address of those who have none yet.
_INSIDE = "10.77.0.0/24, 10.1.0.0/16, 10.152.183.0/24, 127.0.0.0/8, 224.0.0.0/24, 255.255.255.255, 0.0.0.0"
_RULES = f"""
table inet lab {{
  set inside {{ type ipv4_addr; flags interval; elements = {{ {_INSIDE} }} }}
  set with_port {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; size 65535; flags dynamic; }}
  set without_port {{ type ipv4_addr . ipv4_addr . inet_proto; size 65535; flags dynamic; }}
  chain outside {{
    ip daddr @inside return
    meta l4proto {{ tcp, udp, sctp, dccp, udplite }} update @with_port \
      {{ ip saddr . ip daddr . meta l4proto . th dport counter }}
    meta l4proto != {{ tcp, udp, sctp, dccp, udplite }} update @without_port \
      {{ ip saddr . ip daddr . meta l4proto counter }}
    meta l4proto tcp reject with tcp reset
    reject with icmpx admin-prohibited
  }}
  chain from_hosts {{ type filter hook prerouting priority raw; iifname "br0" meta nfproto ipv4 jump outside; }}
  chain from_bastion {{ type filter hook output priority filter; meta nfproto ipv4 jump outside; }}
}}
"""


def _namespaces() -> set[str]:
    folder = Path("/run/netns")
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _set_sysctls(namespace: str, **values: int) -> None:
    # IPv6 off: with neither address nor route nothing could leave by it, and nothing could be counted.
    keys = {"net.ipv6.conf.all.disable_ipv6": 1, "net.ipv6.conf.default.disable_ipv6": 1, "net.ipv4.ip_forward": 0}
    keys |= {key.replace("__", "."): value for key, value in values.items()}
    present = [f"{k}={v}" for k, v in keys.items() if Path("/proc/sys", k.replace(".", "/")).exists()]
    sh("ip", "netns", "exec", namespace, "sysctl", "-qw", *present)


def _add_namespace(name: str, **sysctls: int) -> None:
    sh("ip", "netns", "add", name)
    _set_sysctls(name, **sysctls)


def _ip(namespace: str, *lines: str) -> None:
    sh("ip", "-n", namespace, "-batch", "-", stdin="\n".join(lines) + "\n")


def switch_is_up(instance: Instance) -> bool:
    """Whether the switch is complete: the rules are loaded last."""
    if instance.switch not in _namespaces():
        return False
    return "table inet lab" in sh("ip", "netns", "exec", instance.switch, "nft", "list", "tables", check=False)


def create_switch(instance: Instance) -> None:
    """Make the switch; what is left of an unfinished one is removed. Hosts are attached to it afterwards."""
    remove_switch(instance)
    _add_namespace(instance.switch, **{"net__bridge__bridge-nf-call-iptables": 0})
    _ip(
        instance.switch,
        "link set lo up",
        "link add br0 type bridge",
        f"addr add {GATEWAY}/24 dev br0",
        "link set br0 up",
        # A route for all else, so that the bastion's packets to the outside exist and are counted.
        "route add default dev br0",
    )
    sh("ip", "netns", "exec", instance.switch, "nft", "-f", "-", stdin=_RULES)


def remove_switch(instance: Instance) -> None:
    """Remove the switch and with it every host's cable."""
    if instance.switch in _namespaces():
        sh("ip", "netns", "del", instance.switch, check=False)


def attach(instance: Instance, host: str) -> None:
    """Give a host a new network namespace with one cable to the switch, as after a boot: no rule or route is left."""
    detach(instance, host)
    namespace = instance.namespace(host)
    _add_namespace(namespace)
    hardware = f"02:67:70:00:00:{11 + number(host):02x}"
    _ip(
        instance.switch,
        f"link add {host} type veth peer name eth0 address {hardware} netns {namespace}",
        f"link set {host} master br0 up",
    )
    _ip(
        namespace,
        "link set lo up",
        f"addr add {address(host)}/24 dev eth0",
        "link set eth0 up",
        f"route add default via {GATEWAY}",
    )


def is_attached(instance: Instance, host: str) -> bool:
    """Whether a host's cable is there."""
    if not {instance.switch, instance.namespace(host)} <= _namespaces():
        return False
    return bool(sh("ip", "-n", instance.switch, "-o", "link", "show", host, check=False))


def detach(instance: Instance, host: str) -> None:
    """Remove a host's cable and namespace."""
    present = _namespaces()
    if instance.switch in present:
        # At once: the kernel removes the devices of a namespace some time after the namespace.
        sh("ip", "-n", instance.switch, "link", "del", host, check=False)
    if instance.namespace(host) in present:
        sh("ip", "netns", "del", instance.namespace(host), check=False)


def packets(instance: Instance, reset: bool = False) -> list[dict[str, Any]]:
    """Packets to the outside since the last reset, by source, destination, protocol and port (None if it has none)."""
    nft = ["ip", "netns", "exec", instance.switch, "nft"]
    found = []
    for name in ("with_port", "without_port"):
        listed = json.loads(sh(*nft, "-j", "list", "set", "inet", "lab", name))
        elements = next(item["set"] for item in listed["nftables"] if "set" in item).get("elem", [])
        for element in (e["elem"] for e in elements):
            source, destination, protocol, *port = element["val"]["concat"]
            found.append(
                {
                    "source": source,
                    "destination": destination,
                    "protocol": str(protocol),
                    "port": int(port[0]) if port else None,
                    "packets": element["counter"]["packets"],
                }
            )
        if reset:
            sh(*nft, "flush", "set", "inet", "lab", name)
    return sorted(found, key=lambda p: (p["source"], p["destination"], p["protocol"], p["port"] or 0))
