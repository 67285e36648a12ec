"""Virtual time: it stands still until `advance`, and whoever sleeps is woken in order."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools

from gpuhub_portal.collector.clock import Clock

# Within an hour, so that histories go on into the next one.
EPOCH = 1_790_000_400


# On whose behalf a task runs.
owner: contextvars.ContextVar[object] = contextvars.ContextVar("owner", default=None)


class VirtualClock(Clock):
    def __init__(self) -> None:
        self._now = float(EPOCH)
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future, object]] = []

    def now(self) -> int:
        return int(self._now)

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), future, owner.get()))
        await future

    def sleeping(self, whose: object) -> int:
        """How many tasks of an owner are asleep."""
        return sum(sleeper is whose and not future.done() for _, _, future, sleeper in self._sleepers)

    def next_at(self) -> float | None:
        """When the next one wakes."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    def advance(self, at: float) -> None:
        """Set the time and wake those whose time has come."""
        self._now = max(self._now, at)
        while (due := self.next_at()) is not None and due <= self._now:
            heapq.heappop(self._sleepers)[2].set_result(None)
