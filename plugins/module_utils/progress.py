"""How far long work is, told from the process that does it to one that waits for it, by a small file."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

#: Called with what is done, and how many bytes of how many.
Progress = Callable[[str, int, int], None]

INTERVAL = 1.0


def silent(what: str, done: int, total: int) -> None:
    """Tells nobody."""


class ProgressFile:
    """Writes one line into a file, at most once a second."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._next = clock() + INTERVAL

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._clock() < self._next:
            return
        self._next = self._clock() + INTERVAL
        with suppress(OSError):  # nobody waits any more
            self._path.write_text(f"{what}: {done / 1e9:.1f} of {total / 1e9:.1f} GB", encoding="utf-8")


def of(path: str | None) -> Progress:
    """What tells of progress by the file `path`, or nobody."""
    return ProgressFile(Path(path)) if path else silent
