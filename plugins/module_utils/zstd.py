"""Streams compressed by zstd, by the Python package zstandard where it is installed: the standard library has none."""

from __future__ import annotations

import io
from typing import IO, Any

from .untrusted_tar import Opener

try:
    import zstandard
except ImportError:
    zstandard = None

#: Memory that a stream may ask for: that of the command line's --long=31.
MAX_WINDOW = 2**31


class _Stream(io.RawIOBase):
    """Reads one or several frames; what is damaged raises OSError, as other streams of compressed data do."""

    def __init__(self, file: IO[bytes]) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self._reader = decompressor.stream_reader(file, read_across_frames=True, closefd=False)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return self._reader.readinto(buffer)
        except zstandard.ZstdError as error:
            raise OSError(str(error)) from error


def opener() -> Opener | None:
    """What opens such a stream, None where the package is missing."""
    return _Stream if zstandard else None  # type: ignore[return-value]
