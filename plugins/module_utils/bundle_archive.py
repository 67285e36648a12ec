"""Parts of a bundle as one archive, to be sent to a host in one transfer."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tarfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from .atomic_file import replacement
from .bundle import Bundle, ContradictionError, find_image
from .bundle_manifest import BundleError, File, Manifest
from .image_reference import normalise
from .oci import (
    ArchiveImage,
    Blob,
    HashingReader,
    Layout,
    LayoutError,
    archive_blobs,
    archive_key,
    tar_member,
    write_archive,
)
from .progress import Progress, silent

#: Archives of a cache that nobody asked for so long are removed, in seconds.
MAX_AGE = 24 * 3600


def image_selection(bundle: Bundle, references: Iterable[str], platform: str) -> list[ArchiveImage]:
    """The images of a bundle by reference. Raises BundleError, LayoutError, ImageReferenceError."""
    chosen = []
    for reference in sorted({normalise(text) for text in references}):
        try:
            image = bundle.find(reference, platform)
        except ContradictionError as error:
            raise BundleError(f"several images have the name {reference}: {error}") from error
        if image is None:
            raise BundleError(f"the bundle does not hold {reference}")
        layout = bundle.layout(image.archive)
        found = find_image(layout, image, reference, platform)
        if isinstance(found, str):
            raise BundleError(f"{reference} is for {found}, not for {platform}")
        chosen.append(ArchiveImage(found, layout))
    return chosen


def file_selection(manifest: Manifest, paths: Iterable[str]) -> list[File]:
    """Files that a manifest names, sorted. Raises BundleError for one that it does not name."""
    known = {file.path: file for item in manifest.items for file in item.files}
    unknown = sorted(set(paths) - set(known))
    if unknown:
        raise BundleError(f"manifest.json does not name {', '.join(unknown)}")
    return [known[path] for path in sorted(set(paths))]


def write_files(stream: IO[bytes], folder: Path, files: Iterable[File]) -> None:
    """Write files of a bundle as an uncompressed tar, under their base names. Raises LayoutError if one is damaged."""
    with tarfile.open(fileobj=stream, mode="w:", format=tarfile.PAX_FORMAT) as tar:
        for file in files:
            path = folder / file.path
            try:
                with path.open("rb") as source:
                    hashed = HashingReader(source)
                    tar.addfile(tar_member(path.name, path.stat().st_size), hashed)  # type: ignore[arg-type]
            except OSError as error:
                raise LayoutError(file.path, f"cannot be read ({error})") from error
            if hashed.digest != file.digest:
                raise LayoutError(file.path, f"its content has the digest {hashed.digest} instead of {file.digest}")


class _Counted:
    """A stream that tells how much was written to it."""

    def __init__(self, stream: IO[bytes], progress: Progress, total: int) -> None:
        self._stream = stream
        self._progress = progress
        self._total = total
        self.tell = stream.tell

    def write(self, data: bytes) -> int:
        written = self._stream.write(data)
        self._progress("writing an archive of images", self.tell(), self._total)
        return written


def write_images(
    stream: IO[bytes], chosen: list[ArchiveImage], excluded: Iterable[str], progress: Progress = silent
) -> None:
    """Write images as an OCI archive, unpacking what is still missing of them. Raises LayoutError, SpaceError."""
    wanted: dict[Layout, list[Blob]] = {}
    for blob, layout in archive_blobs(chosen, excluded).values():
        wanted.setdefault(layout, []).append(blob)
    for layout, blobs in wanted.items():
        layout.require(blobs)
    total = sum(blob.size for blobs in wanted.values() for blob in blobs)
    write_archive(_Counted(stream, progress, total), chosen, excluded)  # type: ignore[arg-type]


def images_key(chosen: Iterable[ArchiveImage], excluded: Iterable[str]) -> str:
    """Name of an archive of images by its content."""
    return "images-" + archive_key(chosen, excluded)


def files_key(files: Iterable[File]) -> str:
    """Name of an archive of files by its content."""
    text = "\n".join(f"{file.path} {file.digest}" for file in files)
    return "files-" + hashlib.sha256(text.encode()).hexdigest()[:32]


def write_once(path: Path, write: Callable[[IO[bytes]], object]) -> bool:
    """Make `path` by `write` if it is not there; whoever sees it sees all of it. Returns whether it was made.

    Several processes that want the same file wait for the first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.is_file():
            os.utime(path)
            return False
        with replacement(path) as stream:
            write(stream)
    return True


def prune(cache: Path, keep: Path, now: Callable[[], float] = time.time) -> None:
    """Remove what nobody asked for in MAX_AGE, and what killed runs left behind."""
    for file in cache.glob("*"):
        try:
            old = now() - file.stat().st_mtime > MAX_AGE
        except FileNotFoundError:
            continue
        if old and file != keep:
            file.unlink(missing_ok=True)
