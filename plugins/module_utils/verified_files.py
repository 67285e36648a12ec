"""Digests of files, with a memory: a file that was hashed and has not changed since is not hashed again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from .atomic_file import write_text


class VerifiedFiles:
    """Remembers which parts of which files had which digest.

    A memory is valid while the file's size, inode, modification and status change times are the same; the last cannot
    be set by anybody, so that a file edited with its old time put back is hashed again. Only good results are kept. A
    memory that cannot be read or written is no memory: it costs time, never correctness.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._known: dict[str, list[int]] = {}
        self._used: dict[str, list[int]] = {}
        if memory is not None:
            try:
                known = json.loads(memory.read_bytes())
            except (OSError, ValueError):
                known = None
            if isinstance(known, dict):
                self._known = known

    def check(self, file: Path, offset: int, digest: str, verify: Callable[[], None]) -> None:
        """Call `verify`, which raises if the content at `offset` is wrong, unless its result is remembered."""
        key = f"{file.resolve()}@{offset} {digest}"
        state = file_state(file)
        if state not in (self._known.get(key), self._used.get(key)):
            verify()
        self._used[key] = state

    def save(self) -> None:
        """Write the memory down: what was looked at this time, and older knowledge of files that still exist."""
        if self._memory is None or self._used.items() <= self._known.items():
            return
        kept = {key: state for key, state in self._known.items() if Path(key.rpartition("@")[0]).exists()}
        try:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._memory, json.dumps({**kept, **self._used}, sort_keys=True), 0o600)
        except OSError:
            return


def file_state(file: Path) -> list[int]:
    """What changes with a file's content: its size, inode, modification and status change times. Raises OSError."""
    status = file.stat()
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
