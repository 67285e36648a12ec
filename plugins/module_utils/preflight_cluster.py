"""What no host can say of itself: the inventory, and how the hosts fit together. Pure, standard library only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Callable, NamedTuple

from .preflight_checks import Facts
from .preflight_findings import CHECKS, Finding, finding, network

OURS = ("head", "workers")
# What people call these groups elsewhere, without a plural's s.
_LOOK_ALIKES = {
    "agent": "workers",
    "compute": "workers",
    "control_plane": "head",
    "controller": "head",
    "gpu": "workers",
    "hub": "head",
    "jupyterhub": "head",
    "master": "head",
    "node": "head or workers",
    "server": "head or workers",
}
INVENTORY = "inventory"


class HostFinding(NamedTuple):
    """A finding with the host that it is about; `INVENTORY` where it is about none."""

    host: str
    finding: Finding


class Seen(NamedTuple):
    """What came of looking at one host: its facts, or the problem that kept us from it.

    `offset` is by how many seconds its clock is ahead of the control node's: least and most that it can be.
    """

    facts: Facts | None
    findings: tuple[Finding, ...] = ()
    offset: tuple[float, float] = (0.0, 0.0)
    unreachable: str = ""
    failed: str = ""


def check_inventory(groups: Mapping[str, Sequence[str]], tls: bool) -> list[HostFinding]:
    """Return what is wrong with the groups of an inventory; `tls`: whether people log in by HTTPS."""
    return [HostFinding(host, found) for host, found in _inventory(groups, tls)]


def _inventory(groups: Mapping[str, Sequence[str]], tls: bool) -> Iterator[tuple[str, Finding]]:
    head, workers = (list(groups.get(name) or []) for name in OURS)
    known = {*head, *workers}
    others = {name: hosts for name, hosts in groups.items() if name not in (*OURS, "all", "ungrouped") and hosts}
    if len(head) != 1:
        elsewhere = f", but in {', '.join(others)}" if others and not known else ""
        found = f"{len(head)} hosts: {', '.join(head)}" if head else f"no host{elsewhere}"
        yield INVENTORY, finding("inventory-head", "head", found)
    for host in (host for host in head if host in workers):
        yield host, finding("inventory-both", host, "in head and in workers")
    for name, hosts in others.items():
        meant = _meant(name)
        # A group of hosts that are in our groups too is somebody's own way to set variables.
        if meant and not set(hosts) <= known:
            found = f"group {name} with {', '.join(hosts)}"
            yield INVENTORY, finding("inventory-group", name, found, f"group {meant}, if that is what {name} means")
    if known and not tls:
        yield INVENTORY, finding("clear-text", "login", "plain HTTP on the hub's node port")


def _meant(name: str) -> str:
    """Which of our groups another one's name may stand for; empty if none."""
    whole = name.lower().replace("-", "_")
    for part in (whole, *whole.split("_")):
        near = next(iter(get_close_matches(part, OURS, 1, 0.75)), "")
        meant = _LOOK_ALIKES.get(part) or _LOOK_ALIKES.get(part.rstrip("s")) or near
        if meant:
            return meant
    return ""


def check_accepted(accept: Sequence[str]) -> list[HostFinding]:
    """Return what is wrong with the names of accepted checks."""
    found = []
    for name in accept:
        check = CHECKS.get(name)
        if check is None:
            near = get_close_matches(str(name), CHECKS, 1)
            needed = f"the name of a check{', such as ' + near[0] if near else ''}"
            found.append(HostFinding(INVENTORY, finding("accept", str(name), f"preflight_accept: {name}", needed)))
        elif not check.acceptable:
            reason = f"preflight_accept: {name}, without which nothing can work"
            found.append(HostFinding(INVENTORY, finding("accept", name, reason)))
    return found


def check_cluster(seen: Mapping[str, Seen], head: str, shared_path: str, max_skew: float) -> list[HostFinding]:
    """Return all that the hosts say of themselves, and what shows only when they are compared.

    `seen` is by the hosts' names in the inventory; where a host must be compared with one, that is `head`, or the
    first that could be looked at.
    """
    found = []
    for host, one in seen.items():
        if one.unreachable:
            found.append(HostFinding(host, finding("unreachable", host, one.unreachable)))
        elif one.facts is None:
            found.append(HostFinding(host, finding("unreadable", host, one.failed or "no answer")))
        found += [HostFinding(host, finding) for finding in one.findings]
    known = {host: one for host, one in seen.items() if one.facts is not None}
    if not known:
        return found
    first = head if head in known else next(iter(known))
    ordered = {first: known[first], **known}
    for compare in (_same_names, _same_addresses, _same_machines):
        found += [HostFinding(host, what) for host, what in compare(ordered)]
    found += [HostFinding(host, what) for host, what in _clocks(ordered, first, max_skew)]
    found += [HostFinding(host, what) for host, what in _storage(ordered, first)]
    workers = [host for host in seen if host != head]
    if not shared_path and len(workers) > 1:
        reason = f"{len(workers)} workers, gpuhub_shared_storage_path is empty"
        found.append(HostFinding(INVENTORY, finding("no-shared-storage", "gpuhub_shared_storage_path", reason)))
    return found


def _shared_by(known: Mapping[str, Seen], values: Callable[[Facts], Sequence[str]]) -> Iterator[tuple[str, str, str]]:
    """What a host has that another has too, as host, the other and the value."""
    owners: dict[str, list[str]] = defaultdict(list)
    for host, one in known.items():
        for value in values(one.facts or {}):
            owners[value].append(host)
    for value, hosts in owners.items():
        for host in hosts[1:]:
            yield host, hosts[0], value


def _same_names(known: Mapping[str, Seen]) -> Iterator[tuple[str, Finding]]:
    for host, other, name in _shared_by(known, lambda facts: [facts["host_name"].lower()]):
        yield host, finding("host-name-duplicate", name, f"'{name}' is the name of {other} too")


def _same_addresses(known: Mapping[str, Seen]) -> Iterator[tuple[str, Finding]]:
    for host, other, address in _shared_by(known, _reachable_addresses):
        yield host, finding("address-duplicate", address, f"{address} is the address of {other} too")


def _reachable_addresses(facts: Facts) -> list[str]:
    """The addresses by which others reach a host: those in the network of its default gateway.

    Hosts may well share others: of a container bridge, or of a cable between two cards.
    """
    gateways = [network(route["gateway"]) for route in facts["routes"] if route["gateway"]]
    links = [network(route["network"]) for route in facts["routes"] if not route["gateway"]]
    near = [link for link in links if link and any(gateway and gateway.subnet_of(link) for gateway in gateways)]
    nets = {address: network(address) for address in facts["addresses"]}
    return [address for address, net in nets.items() if net and any(net.subnet_of(link) for link in near)]


def _same_machines(known: Mapping[str, Seen]) -> Iterator[tuple[str, Finding]]:
    for host, other, number in _shared_by(known, lambda facts: [facts["machine_id"]] if facts["machine_id"] else []):
        yield host, finding("machine-id-duplicate", number, f"{number} is that of {other} too")


def _clocks(known: Mapping[str, Seen], first: str, most: float) -> Iterator[tuple[str, Finding]]:
    needed = f"at most {most:g} s (preflight_max_clock_skew)"
    agreed = True
    for host, one in known.items():
        skew = _apart(one.offset, known[first].offset)
        if abs(skew) > most:
            agreed = False
            yield host, finding("clock-skew", "clock", f"{_ahead(skew)} {first}", needed)
    skew = _apart(known[first].offset, (0.0, 0.0))
    if agreed and abs(skew) > most:
        yield first, finding("clock-control", "clock", f"{_ahead(skew)} the control node", needed)


def _apart(one: tuple[float, float], other: tuple[float, float]) -> float:
    """By how many seconds one clock is ahead of another for certain; 0 if they may be equal."""
    least, most = one[0] - other[1], one[1] - other[0]
    return least if least > 0 else min(most, 0.0)


def _ahead(seconds: float) -> str:
    return f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'}"


def _storage(known: Mapping[str, Seen], first: str) -> Iterator[tuple[str, Finding]]:
    """What differs from the first host where both have the shared storage mounted."""
    usable = {host: _usable_storage(one.facts or {}) for host, one in known.items()}
    model = usable[first] or next((storage for storage in usable.values() if storage), None)
    if model is None:
        return
    (owner, *_others) = (host for host, storage in usable.items() if storage is model)
    for host, storage in usable.items():
        if storage is None or storage is model:
            continue
        found = f"{_describe(storage)}; {owner} has {_describe(model)}"
        if _is_different(storage, model):
            yield host, finding("shared-storage-different", storage["path"], found)
        elif (storage["source"], storage["type"]) != (model["source"], model["type"]):
            yield host, finding("shared-storage-source", storage["path"], found)


def _is_different(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two mounts cannot be of the same folder.

    The folder's inode is the same for all that mount it. The file system's identifier is 0 on NFS; then two exports can
    have equal inodes (that of their top folder) by chance, and what tells them apart is their path and size.
    """
    if (one["fsid"], one["inode"]) != (other["fsid"], other["inode"]):
        return True
    if one["fsid"] or one["source"] == other["source"]:
        return False
    exports = {storage["source"].rpartition(":")[2] for storage in (one, other)}
    return len(exports) > 1 or abs(one["bytes"] - other["bytes"]) > 0.01 * other["bytes"]


def _usable_storage(facts: Facts) -> Mapping[str, Any] | None:
    shared = facts.get("shared")
    return shared if shared and shared["there"] and shared["mount"] != "/" else None


def _describe(storage: Mapping[str, Any]) -> str:
    inside = "" if storage["root"] == "/" else f" folder {storage['root']}"
    return f"{storage['source']} ({storage['type']}){inside} at {storage['mount']}"
