"""Files that are replaced as a whole. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path


def write_text(path: Path, text: str, mode: int) -> None:
    """Make `path` a file with this text and these permissions, never seen half written or more open than that.

    What a killed write left beside it is overwritten by the next. The text is on disk before the old file is gone.
    Raises OSError; the folder must exist.
    """
    partial = path.with_name(f".{path.name}.gpuhub")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)  # whatever the umask is
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    partial.rename(path)
