"""Files that are replaced as a whole. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

KEPT = (-1, -1)


@contextmanager
def replacement(path: Path, mode: int = 0o600, owner: tuple[int, int] = KEPT) -> Iterator[IO[bytes]]:
    """A stream whose content is file `path`, with these permissions, once the block ends without an exception.

    `owner` are the ids of user and group; -1, the default of both, keeps that of the file that was there.
    Nobody ever sees the file half written or more open than that. What a killed write left beside it is overwritten by
    the next. The content is on disk before the old file is gone. Raises OSError; the folder must exist.
    """
    if path.exists():
        before = path.stat()
        owner = tuple(new if new != -1 else old for new, old in zip(owner, (before.st_uid, before.st_gid)))
    partial = path.with_name(f".{path.name}.gpuhub")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchown(descriptor, *owner)
            os.fchmod(descriptor, mode)  # whatever the umask is
            yield stream
            stream.flush()
            os.fsync(descriptor)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str, mode: int, owner: tuple[int, int] = KEPT) -> None:
    """Make `path` a file with this text, these permissions and this owner, by `replacement`. Raises OSError."""
    with replacement(path, mode, owner) as stream:
        stream.write(text.encode())
