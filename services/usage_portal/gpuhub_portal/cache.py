"""Limits and use of everybody, read together at most once a second, however many ask.

One query for all costs little more than one for a single user, so the load on the database does not grow with requests.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field

from gpuhub_core.quantities import Limits, Resources, format_cores, format_gib

from . import policy, queries
from .database import Database
from .metrics import Metrics

# Most answers that are kept ready, against clients that ask for names that nobody has.
_MOST_ANSWERS = 10_000


def document(limits: Limits, used: Resources) -> dict[str, object]:
    """The answer of `GET /users/{username}/limits`, as external portals give it too; null is no limit."""
    return {
        "cpu_limit_cores": None if limits.cpu_milli is None else format_cores(limits.cpu_milli),
        "memory_limit_gib": None if limits.memory_bytes is None else format_gib(limits.memory_bytes),
        "gpu_limit": limits.gpu,
        "usage": {
            "cpu_cores": format_cores(used.cpu_milli),
            "memory_gib": format_gib(used.memory_bytes),
            "gpu": used.gpu,
        },
    }


@dataclass
class _Snapshot:
    asked: float
    current: policy.Current
    use: dict[str, queries.Use]
    answers: dict[str, bytes] = field(default_factory=dict)


class LimitsCache:
    """Answers about limits, none older than `seconds`; a change made by this process shows at once."""

    def __init__(self, database: Database, policies: policy.Policies, metrics: Metrics, seconds: float) -> None:
        self._database, self._policies, self._metrics, self._seconds = database, policies, metrics, seconds
        self._snapshot: _Snapshot | None = None
        self._lock = asyncio.Lock()
        self._generation = 0

    def invalidate(self) -> None:
        """Read again for the next request: something was granted, released or changed here."""
        self._generation += 1
        self._snapshot = None

    def ready(self, username: str) -> bytes | None:
        """The body of an answer that was made before and is young enough, or None."""
        snapshot = self._fresh()
        return snapshot.answers.get(username) if snapshot is not None else None

    async def answer(self, username: str) -> bytes:
        """The body of the answer for a user. Raises UnavailableError."""
        snapshot = self._fresh() or await self._read()
        body = snapshot.answers.get(username)
        if body is None:
            used = snapshot.use.get(username, queries.Use()).total
            body = json.dumps(document(snapshot.current.limits(username), used), separators=(",", ":")).encode()
            if len(snapshot.answers) < _MOST_ANSWERS:
                snapshot.answers[username] = body
        return body

    def _fresh(self) -> _Snapshot | None:
        snapshot = self._snapshot
        return snapshot if snapshot is not None and time.monotonic() - snapshot.asked < self._seconds else None

    async def _read(self) -> _Snapshot:
        arrived = time.monotonic()
        async with self._lock:
            # Who waited takes what was read meanwhile, however long that took: it is newer than the request.
            read = self._snapshot
            if (read is not None and read.asked >= arrived) or (read := self._fresh()) is not None:
                return read
            generation, asked = self._generation, time.monotonic()
            async with self._database.connect() as connection:
                current = await self._policies.current(connection)
                use = await queries.use(connection)
            self._metrics.refreshes.inc()
            snapshot = _Snapshot(asked, current, use)
            if generation == self._generation:
                self._snapshot = snapshot
            return snapshot
