"""Tars that nobody vouches for, compressed or not, read from the first to the last byte without believing any of it.

Nothing is ever unpacked under a name that an archive gives: the caller gets names and places and reads what it wants.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from .progress import Progress, silent

#: Long names and extended attributes are small; what is larger would only fill the memory.
MAX_HEADER = 1024 * 1024
MAX_MEMBERS = 100_000
#: Bytes of an archive, unpacked. The largest images have a hundredth of it.
MAX_TOTAL = 1024**4
CHUNK = 1024 * 1024

#: What opens the compressed stream in a file; damaged streams raise OSError or EOFError when they are read.
Opener = Callable[[IO[bytes]], IO[bytes]]

_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
)
_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError)


class UntrustedTarError(Exception):
    """An archive is refused; the message says why, without its name."""


def compression(start: bytes) -> str:
    """How a file that begins with `start` is compressed: ``gzip``, ``zstd``, ``xz``, ``bzip2``, or empty for not."""
    # Parallel compressors begin with a frame that decompressors skip.
    if start[1:4] == b"\x2a\x4d\x18" and start[0] & 0xF0 == 0x50:
        return "zstd"
    return next((name for magic, name in _MAGIC if start.startswith(magic)), "")


class TarStream:
    """A tar that is read forward only, with the positions of its unpacked form. Close it, or use it in a with block."""

    def __init__(self, path: Path, zstd: Opener | None = None, progress: Progress = silent) -> None:
        """Open `path`; `zstd` opens what zstd compressed. Raises UntrustedTarError, OSError."""
        self._progress = progress
        self._file = path.open("rb")
        self._name, self._total = path.name, path.stat().st_size
        try:
            self.compression = compression(self._file.read(8))
            self._file.seek(0)
            self._stream = self._opened(zstd)
        except BaseException:
            self._file.close()
            raise
        self._position = 0
        self._last = b""

    def _opened(self, zstd: Opener | None) -> IO[bytes]:
        if self.compression == "gzip":
            return gzip.GzipFile(fileobj=self._file)  # type: ignore[return-value]
        if self.compression == "xz":
            return lzma.LZMAFile(self._file)  # type: ignore[return-value]
        if self.compression == "bzip2":
            return bz2.BZ2File(self._file)  # type: ignore[return-value]
        if self.compression != "zstd":
            return self._file
        if zstd is None:
            raise UntrustedTarError(
                "is compressed by zstd, and the Python that runs Ansible has no package zstandard: "
                "install it (pip install -r requirements.txt), or unpack the archive (zstd -d)"
            )
        return zstd(self._file)

    def __enter__(self) -> TarStream:
        return self

    def __exit__(self, *_reason: object) -> None:
        self._file.close()

    # -- what tarfile calls

    def tell(self) -> int:
        """Position in the unpacked archive."""
        return self._position

    def seek(self, position: int) -> int:
        """Go forward to `position`."""
        if position < self._position or position > MAX_TOTAL:
            raise tarfile.ReadError(f"a member leads to byte {position}")
        if self._stream is self._file:
            self._file.seek(position)
            self._position = position
        while self._position < position:
            if not self.take(min(CHUNK, position - self._position)):
                raise tarfile.ReadError("unexpected end of data")
        return position

    def read(self, size: int = -1) -> bytes:
        """Part of a header."""
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self._last = self.take(size)
        return self._last

    # -- what we call

    def take(self, size: int) -> bytes:
        """The next bytes, fewer only at the end."""
        parts, left = [], size
        while left:
            part = self._stream.read(left)
            if not part:
                break
            parts.append(part)
            left -= len(part)
        self._position += size - left
        self._progress(f"reading {self._name}", self._file.tell(), self._total)
        return b"".join(parts)

    def chunks(self, offset: int, size: int) -> Iterator[bytes]:
        """The content of a member that begins at `offset`, which is not before where we are.

        Raises UntrustedTarError.
        """
        try:
            self.seek(offset)
            while size:
                chunk = self.take(min(CHUNK, size))
                if not chunk:
                    raise tarfile.ReadError("unexpected end of data")
                size -= len(chunk)
                yield chunk
        except _ERRORS as error:
            raise UntrustedTarError(_words(error)) from error

    def members(self) -> Iterator[tuple[str, tarfile.TarInfo]]:
        """Normalised name and header of every file and link; between two of them the caller may read the content.

        Raises UntrustedTarError for members that leave the archive, are there twice or are neither file, folder nor
        link, and for an archive that is damaged or cut off.
        """
        seen = set()
        try:
            with tarfile.open(fileobj=self, mode="r:") as tar:  # type: ignore[arg-type]
                for member in tar:
                    name = _checked_name(member)
                    if member.isdir():
                        continue
                    if name in seen:
                        raise UntrustedTarError(f"holds {name!r} twice")
                    if len(seen) >= MAX_MEMBERS:
                        raise UntrustedTarError(f"holds more than {MAX_MEMBERS} files")
                    seen.add(name)
                    yield name, member
            # tarfile takes whatever is no header for the end.
            if len(self._last) != tarfile.BLOCKSIZE or any(self._last):
                raise tarfile.ReadError("no end of the archive where it should be")
            while self._stream is not self._file and self.take(CHUNK):
                if self._position > MAX_TOTAL:
                    raise tarfile.ReadError(f"more than {MAX_TOTAL} bytes")
        except _ERRORS as error:
            raise UntrustedTarError(_words(error)) from error


def _checked_name(member: tarfile.TarInfo) -> str:
    """The normalised name of a member. Raises UntrustedTarError."""
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()) or member.issparse():
        raise UntrustedTarError(f"holds {member.name!r}, which is neither a plain file nor a folder nor a link")
    name = posixpath.normpath(member.name)
    targets = [name]
    if member.issym():
        targets.append(link_target(name, member.linkname))
    elif member.islnk():
        targets.append(posixpath.normpath(member.linkname))
    for target in targets:
        if target.startswith("/") or target == ".." or target.startswith("../"):
            raise UntrustedTarError(f"holds {member.name!r}, which leads out of it")
    return name


def link_target(name: str, target: str) -> str:
    """The name inside an archive that the symbolic link `name` leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))


def _words(error: Exception) -> str:
    """Why an archive cannot be read."""
    return f"is damaged or cut off, or no archive ({error or type(error).__name__})"
