"""Seconds per hour. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from gpuhub_portal.ledger.facts import Hold, Pod

HOUR = 3600
_MIB = 1 << 20

# (hour, username, group_name, kind, gpu_type) -> gpu_seconds, cpu_milli_seconds, memory_mib_seconds, sessions
Key = tuple[int, str, str, str, str]
Sums = dict[Key, list[int]]


def new_sums() -> Sums:
    return defaultdict(lambda: [0, 0, 0, 0])


def seconds_by_hour(since: int, until: int) -> Iterator[tuple[int, int]]:
    """(beginning of an hour, seconds in it) for each hour that the interval touches."""
    while since < until:
        hour = since - since % HOUR
        end = min(hour + HOUR, until)
        yield hour, end - since
        since = end


def add(sums: Sums, pod: Pod, hold: Hold | None, sign: int) -> None:
    """Add (1) or take away (-1) what an interval contributes. One that is open contributes nothing yet."""
    if hold is None or hold.until is None:
        return
    mib = -(-pod.memory_bytes // _MIB)
    for hour, seconds in seconds_by_hour(hold.since, hold.until):
        row = sums[hour, pod.username, pod.group_name, pod.kind, pod.gpu_type]
        row[0] += sign * seconds * pod.gpu
        row[1] += sign * seconds * pod.cpu_milli
        row[2] += sign * seconds * mib
