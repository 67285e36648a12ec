"""Time, behind an interface so that tests can have their own."""

from __future__ import annotations

import asyncio
import time


class Clock:
    """The machine's clock."""

    def now(self) -> int:
        """Whole seconds since 1970."""
        return int(time.time())

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Pulse:
    """How often this process has stood still: its machine was suspended, it got no CPU.

    It beats at least every `seconds`; who comes `SLACK` later than that has not run meanwhile.
    """

    SLACK = 5

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock, self._longest = clock, seconds + self.SLACK
        self._count, self._last = 0, clock.now()

    def beat(self) -> None:
        self._count, self._last = self.standstills, self._clock.now()

    @property
    def standstills(self) -> int:
        """With the one that has just ended: what is read first after it need not wait for a beat."""
        return self._count + (self._clock.now() - self._last > self._longest)
