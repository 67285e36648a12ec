"""What Helm's records of a release say. Pure; records are Secrets as plain dicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any

# A revision that Helm has finished, one way or the other. Every other status is of work that was cut off or failed:
# pending-install, pending-upgrade, pending-rollback, uninstalling, failed, unknown.
_FINISHED = ("deployed", "superseded", "uninstalled")
_CHANGING = ("upgrade", "install", "rollback", "uninstall")


def split_history(records: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """Return the unfinished records at the end of a release's history, newest first, and the status that is left.

    The status is empty where no record is left, as after a first installation that was cut off.
    """
    unfinished = []
    for record in sorted(records, key=lambda item: int(item["metadata"]["labels"]["version"]), reverse=True):
        status = record["metadata"]["labels"]["status"]
        if status in _FINISHED:
            return unfinished, status
        unfinished.append(record)
    return unfinished, ""


def helm_at_work(arguments: Sequence[str], release: str) -> bool:
    """Whether a command line is a Helm that changes the release."""
    words = [word for word in arguments if word]
    if not words or not PurePath(words[0]).name.startswith("helm"):
        return False
    return release in words[1:] and any(word in _CHANGING for word in words[1:])
