"""The one report of preflight: what stops, what is only said, as a table and as JSON. Pure, standard library only."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .preflight_cluster import HostFinding, Seen
from .preflight_findings import ERROR, INFO, WARNING

_ACCEPTED = "accepted"
_RANK = {ERROR: 0, WARNING: 1, _ACCEPTED: 2, INFO: 3}
# Columns and the widest that each may be; longer texts are wrapped, single words never cut.
_COLUMNS = {"SEVERITY": 8, "CHECK": 24, "HOST": 20, "FOUND": 34, "NEEDED": 30, "CURE": 44}


class Report(NamedTuple):
    """Findings in the order of their weight, errors first; `stops` if one of them is an error."""

    findings: tuple[HostFinding, ...]
    stops: bool
    summary: str


def make_report(findings: Iterable[HostFinding], accepted: Sequence[str], hosts: int) -> Report:
    """Return the report on `hosts` hosts; errors of accepted checks become findings of severity `accepted`."""
    judged = []
    for host, found in findings:
        is_accepted = found.severity == ERROR and found.name in accepted
        judged.append(HostFinding(host, found._replace(severity=_ACCEPTED) if is_accepted else found))
    ordered = tuple(sorted(judged, key=lambda one: (_RANK[one.finding.severity], one.finding.name)))
    count = {kind: sum(one.finding.severity == kind for one in ordered) for kind in _RANK}
    words = [f"{count[kind]} {kind}{'' if count[kind] == 1 else 's'}" for kind in (ERROR, WARNING) if count[kind]]
    words += [f"{count[_ACCEPTED]} accepted"] if count[_ACCEPTED] else []
    where = f"{hosts} host{'' if hosts == 1 else 's'}"
    return Report(ordered, bool(count[ERROR]), f"{where}: {', '.join(words) or 'all is well'}")


def table(findings: Sequence[HostFinding]) -> str:
    """Return a table of findings for people; hosts with the same finding share a row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for host, found in findings:
        key = (found.severity, found.name, found.found, found.needed, found.cure)
        rows.setdefault(key, []).append(host)
    lines = [_row([[title] for title in _COLUMNS])]
    for (severity, name, found, needed, cure), hosts in rows.items():
        texts = (severity, name, ", ".join(hosts), found, needed, cure)
        lines.append(_row([_wrap(text, width) for text, width in zip(texts, _COLUMNS.values())]))
    return "\n".join(lines)


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _row(cells: Sequence[list[str]]) -> str:
    lines = []
    for number in range(max(len(cell) for cell in cells)):
        parts = (cell[number] if number < len(cell) else "" for cell in cells)
        lines.append("  ".join(part.ljust(width) for part, width in zip(parts, _COLUMNS.values())).rstrip())
    return "\n".join(lines)


def text(report: Report, kinds: Sequence[str]) -> str:
    """Return summary and table of the findings of some severities; only the summary where there are none."""
    shown = [one for one in report.findings if one.finding.severity in kinds]
    return f"{report.summary}\n{table(shown)}" if shown else report.summary


def as_json(report: Report, seen: Mapping[str, Seen]) -> dict[str, Any]:
    """Return the report for programs: `ok`, `summary`, `findings` with their hosts, and `hosts` with their facts."""
    return {
        "ok": not report.stops,
        "summary": report.summary,
        "findings": [{"host": one.host, **one.finding._asdict()} for one in report.findings],
        "hosts": {host: dict(one.facts) if one.facts is not None else None for host, one in seen.items()},
    }
