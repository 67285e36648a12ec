"""What ufw, firewalld and a table of our own must hold so that a node can do its work. Standard library only, pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

EVERYBODY = "0.0.0.0/0"
COMMENT = "gpuhub.platform"  # of our rules in ufw
ZONE, ROUTED, HOST = "gpuhub-pods", "gpuhub-routed", "gpuhub-host"  # our zone and policies in firewalld
TABLE = "gpuhub"  # our table in nftables

_ACTION = re.compile(r"^(route )?(allow|deny|reject|limit)\b")
_SHOWN = re.compile(r"^ufw (?P<rule>.+?)(?: comment '(?P<comment>.*)')?$")
_XML = '<?xml version="1.0" encoding="utf-8"?>\n'
_NOTICE = "Made by gpuhub.platform, role firewall: what is changed here by hand is repaired."


class FirewallError(Exception):
    """A setting that makes no sense, or a firewall that cannot be brought to what is needed. The text is for users."""


class Opening(NamedTuple):
    """Ports of this host that one network may reach."""

    network: str  # IPv4, as 192.0.2.0/24, of one address as 192.0.2.7
    protocol: str  # tcp or udp
    ports: tuple[int, ...]  # in order, without doubles


class NodePorts(NamedTuple):
    """Who may reach the ports that Kubernetes' services have on every node."""

    first: int
    last: int
    pods: tuple[str, ...]
    inside: tuple[str, ...]  # networks that may reach all of them
    clients: tuple[str, ...]  # networks that may reach those of `ports`
    ports: tuple[int, ...]


def network(text: Any, setting: str) -> str:
    """The usual notation of an IPv4 address or network; FirewallError naming `setting` if `text` is neither."""
    try:
        found = ipaddress.IPv4Network(str(text).strip(), strict=False)
    except ValueError as error:
        raise FirewallError(
            f"{setting} holds '{text}', which is no IPv4 address or network, such as 192.0.2.7 or 192.0.2.0/24"
        ) from error
    return str(found.network_address) if found.prefixlen == 32 else str(found)


def networks(texts: Iterable[Any], setting: str) -> tuple[str, ...]:
    """Networks in order, without doubles and without those that another one contains."""
    found = {ipaddress.IPv4Network(network(text, setting)) for text in texts}
    return tuple(network(item, setting) for item in sorted(ipaddress.collapse_addresses(found)))


def ports(numbers: Iterable[Any], setting: str) -> tuple[int, ...]:
    """Port numbers in order, without doubles."""
    found = set()
    for number in numbers:
        if not str(number).isdecimal() or not 0 < int(number) < 65536:
            raise FirewallError(f"{setting} holds '{number}', which is no port number from 1 to 65535")
        found.add(int(number))
    return tuple(sorted(found))


def port_range(text: str, setting: str) -> tuple[int, int]:
    """The ends of FIRST-LAST."""
    found = re.fullmatch(r"(\d+)-(\d+)", str(text).strip())
    if not found or not 0 < int(found[1]) <= int(found[2]) < 65536:
        raise FirewallError(f"{setting} is '{text}', which is no range of ports, such as 30000-32767")
    return int(found[1]), int(found[2])


def openings(items: Iterable[dict[str, Any]]) -> list[Opening]:
    """Openings of `{setting, networks, tcp, udp}`, as a list that does not depend on the order of what is in them."""
    found: dict[tuple[str, str], set[int]] = {}
    for item in items:
        for protocol in ("tcp", "udp"):
            wanted = ports(item.get(protocol) or [], item["setting"])
            for name in networks(item.get("networks") or [], item["setting"]):
                found.setdefault((name, protocol), set()).update(wanted)
    return [Opening(name, protocol, tuple(sorted(numbers))) for (name, protocol), numbers in found.items() if numbers]


# ufw


def ufw_rules(wanted: Iterable[Opening], routed: Iterable[str]) -> dict[str, list[str]]:
    """Arguments of ufw that make each rule, by the text that `ufw show added` has for it afterwards."""
    rules = {}
    for opening in wanted:
        numbers = ",".join(map(str, opening.ports))
        command = f"allow from {opening.network} to any port {numbers} proto {opening.protocol}"
        shown = f"allow {numbers}/{opening.protocol}" if opening.network == EVERYBODY else command
        rules[shown] = command.split()
    for name in routed:
        rules[f"route allow from {name}"] = ["route", "allow", "from", name]
    return rules


def ufw_deletion(rule: str) -> list[str]:
    """Arguments of ufw that delete a rule: `route` comes before `delete`."""
    route, words = ("route ", rule[6:]) if rule.startswith("route ") else ("", rule)
    return f"{route}delete {words}".split()


def ufw_shown(text: str) -> dict[str, str]:
    """Comment of each rule in the output of `ufw show added`."""
    found = (_SHOWN.match(line) for line in text.splitlines())
    return {match["rule"]: match["comment"] or "" for match in found if match}


def ufw_plan(shown: dict[str, str], wanted: Iterable[str]) -> tuple[list[str], list[str]]:
    """Rules to add and rules of ours to delete. A rule of the site that already says the same is left alone.

    Raises FirewallError where the site's own rule says the contrary: ufw would put ours in its place.
    """
    names = list(wanted)
    actions = {_ACTION.sub(r"\1", rule): rule for rule, comment in shown.items() if comment != COMMENT}
    for rule in names:
        other = actions.get(_ACTION.sub(r"\1", rule))
        if other not in (None, rule):
            raise FirewallError(
                f"ufw has the rule '{other}', and '{rule}' is needed. Delete it "
                f"(`ufw {' '.join(ufw_deletion(other))}`), or take the network out of the settings"
            )
    return (
        [rule for rule in names if rule not in shown],
        [rule for rule, comment in shown.items() if comment == COMMENT and rule not in names],
    )


# firewalld


def firewalld_files(wanted: Iterable[Opening], routed: Iterable[str]) -> dict[str, str]:
    """Our files below /etc/firewalld by name.

    The pods get a zone of their own, as firewalld forwards nothing between interfaces of its default zone; what hosts
    and clients may reach is a policy, so that their packets stay in the zones that the site gave them.
    """
    rules = "".join(
        f'  <rule family="ipv4">\n    <source address="{opening.network}"/>\n'
        f'    <port port="{port}" protocol="{opening.protocol}"/>\n    <accept/>\n  </rule>\n'
        for opening in wanted
        for port in opening.ports
    )
    sources = "".join(f'  <source address="{name}"/>\n' for name in routed)
    return {
        f"zones/{ZONE}.xml": (
            f"{_XML}<zone>\n  <short>{ZONE}</short>\n  <description>Pods. {_NOTICE}</description>\n{sources}</zone>\n"
        ),
        f"policies/{ROUTED}.xml": (
            f'{_XML}<policy target="ACCEPT" priority="100">\n  <short>{ROUTED}</short>\n'
            f"  <description>Pods reach each other and the network. {_NOTICE}</description>\n"
            f'  <ingress-zone name="{ZONE}"/>\n  <egress-zone name="ANY"/>\n</policy>\n'
        ),
        # After the zones: what the site denies there stays denied.
        f"policies/{HOST}.xml": (
            f'{_XML}<policy target="CONTINUE" priority="100">\n  <short>{HOST}</short>\n'
            f"  <description>Ports of this host. {_NOTICE}</description>\n"
            f'  <ingress-zone name="ANY"/>\n  <egress-zone name="HOST"/>\n{rules}</policy>\n'
        ),
    }


def firewalld_listing(text: str) -> dict[str, list[str]]:
    """Settings of each zone or policy in the output of `firewall-cmd --list-all-zones` or `--list-all-policies`.

    Without the interfaces of zones, which come and go with the network, and without which of them are in use.
    """
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        if not line[0].isspace():
            current = found.setdefault(line.split(" ")[0], [])
        elif not line.strip().startswith("interfaces:"):
            current.append(line.strip())
    return found


def firewalld_unsaved(running: dict[str, list[str]], saved: dict[str, list[str]]) -> list[str]:
    """Settings that run and are not saved, as texts for users: a reload would lose them."""
    return [f"{name}: {line}" for name in sorted(running) for line in running[name] if line not in saved.get(name, [])]


# nftables


def _set(name: str, members: Iterable[str]) -> str:
    elements = ", ".join(members)
    line = f"    elements = {{ {elements} }}\n" if elements else ""
    return f"  set {name} {{\n    type ipv4_addr\n    flags interval\n    auto-merge\n{line}  }}\n"


def node_port_table(wanted: NodePorts) -> str:
    """Input of `nft -f` that replaces our table as a whole.

    kube-proxy accepts packets to node ports before ufw sees them, and firewalld accepts whatever is translated. A drop
    in a table of its own cannot be overruled; it meets only packets that kube-proxy has translated, so that programs
    of the host in the same range of ports are the site's business.
    """
    # nft 1.0.6, of Debian 12, takes numbers as ports only in a rule that has named the protocols before.
    protocols = "meta l4proto { tcp, udp, sctp }"
    translated = f"{protocols} ct status dnat ct original proto-dst {wanted.first}-{wanted.last}"
    numbers = ", ".join(map(str, wanted.ports))
    opened = (
        f"    {protocols} ct original proto-dst {{ {numbers} }} ct original ip saddr @clients return\n"
        if numbers
        else ""
    )
    return (
        f"# {_NOTICE}\n"
        f"table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n"
        f"{_set('inside', wanted.inside)}{_set('clients', wanted.clients)}{_set('pods', wanted.pods)}"
        "  chain node_ports {\n"
        "    ct original ip saddr @inside return\n"
        f"{opened}"
        "    drop\n"
        "  }\n"
        "  chain input {\n"
        "    type filter hook input priority filter; policy accept;\n"
        '    iifname "lo" accept\n'
        f"    {translated} jump node_ports\n"
        "  }\n"
        "  chain forward {\n"
        "    type filter hook forward priority filter; policy accept;\n"
        f"    {translated} ip daddr @pods jump node_ports\n"
        "  }\n"
        "}\n"
    )
