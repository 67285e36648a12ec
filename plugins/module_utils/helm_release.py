"""What Helm's records of a release say. Pure; records are Secrets as plain dicts."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any

# A revision that Helm has finished, one way or the other. Every other status is of work that was cut off or failed:
# pending-install, pending-upgrade, pending-rollback, uninstalling, failed, unknown.
_FINISHED = ("deployed", "superseded", "uninstalled")
_CHANGING = ("upgrade", "install", "rollback", "uninstall")


class HelmReleaseError(Exception):
    """Helm has no record of a release."""


def newest_release(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the newest revision among the records of one release: `manifest`, `config`, `chart`, as Helm names them.

    Helm stores a release as base64 of base64 of gzip of JSON (helm.sh/helm/v3/pkg/storage/driver/util.go).
    Raises HelmReleaseError if there is none.
    """
    newest = max(records, key=_revision, default=None)
    if newest is None:
        raise HelmReleaseError("the Helm release is not installed")
    return json.loads(gzip.decompress(base64.b64decode(base64.b64decode(newest["data"]["release"]))))


def is_of(release: dict[str, Any], chart_version: str, values: dict[str, Any]) -> bool:
    """Whether a revision was made of the chart in this version with these values."""
    return release["chart"]["metadata"]["version"] == chart_version and (release.get("config") or {}) == values


def _revision(record: dict[str, Any]) -> int:
    return int(record["metadata"]["labels"]["version"])


def split_history(records: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """Return the unfinished records at the end of a release's history, newest first, and the status that is left.

    The status is empty where no record is left, as after a first installation that was cut off.
    """
    unfinished = []
    for record in sorted(records, key=_revision, reverse=True):
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
