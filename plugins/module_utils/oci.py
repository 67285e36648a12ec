"""OCI image layouts, in a folder or inside an uncompressed tar: find images, verify them, write archives.

Nothing is ever believed: a blob counts as good only after its bytes were hashed, and names that come out of JSON are
checked before they become part of a path.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from .image_reference import ImageReferenceError, is_digest, normalise
from .untrusted_tar import TarStream, UntrustedTarError

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
#: Annotations that carry a full reference, the first found wins; containerd reads the same two in the same order.
NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
#: JSON documents of an image are small; what is larger is not one.
MAX_DOCUMENT = 8 * 1024 * 1024
MAX_NESTING = 4
CHUNK = 1024 * 1024


class LayoutError(Exception):
    """Something in a layout is wrong; the message says what and `file` (relative to the layout) says where."""

    def __init__(self, file: str, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.file = file
        self.problem = problem


class MissingFileError(LayoutError):
    """A file that the layout names is not there."""

    def __init__(self, file: str) -> None:
        super().__init__(file, "is missing")


class Blob(NamedTuple):
    """Digest and size in bytes of a blob, as its descriptor states them."""

    digest: str
    size: int


class Image(NamedTuple):
    """One image for one platform; `blobs` are the manifest, the configuration and the layers, in that order."""

    reference: str
    digest: str
    media_type: str
    platform: str
    blobs: tuple[Blob, ...]

    @property
    def size(self) -> int:
        """Bytes of all blobs, each counted once."""
        return sum({blob.digest: blob.size for blob in self.blobs}.values())


def blob_file(digest: str) -> str:
    """Path of a blob inside a layout."""
    return f"blobs/sha256/{digest[len('sha256:') :]}"


class Layout(ABC):
    """An OCI layout; the two kinds below say how its files are reached. It keeps no file open."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """Open file `name` of the layout for reading. Raises MissingFileError."""

    @abstractmethod
    def size(self, name: str) -> int:
        """Size of file `name` in bytes. Raises MissingFileError."""

    @abstractmethod
    def names(self) -> Iterable[str]:
        """All regular files of the layout, relative, with forward slashes."""

    @abstractmethod
    def location(self, name: str) -> tuple[Path, int]:
        """The file on disk that holds `name`, and the offset in it. Raises MissingFileError."""

    def require(self, blobs: Iterable[Blob]) -> list[str]:
        """Make blobs readable that are not yet; returns digests of those that were verified on the way.

        Raises LayoutError, OSError.
        """
        return []

    def read(self, name: str) -> bytes:
        """Content of a small file. Raises LayoutError if it is missing or larger than a document may be."""
        size = self.size(name)
        if size > MAX_DOCUMENT:
            raise LayoutError(name, f"{size} bytes, more than a document of an image can have ({MAX_DOCUMENT})")
        with self.open(name) as stream:
            return stream.read()

    def verify(self, blob: Blob) -> None:
        """Read the whole blob and compare size and digest. Raises LayoutError."""
        name = blob_file(blob.digest)
        _compare_size(name, self.size(name), blob.size)
        with self.open(name) as stream:
            _compare_digest(name, hash_stream(stream), blob.digest)

    def document(self, blob: Blob) -> Any:
        """A JSON blob, verified before it is parsed. Raises LayoutError."""
        name = blob_file(blob.digest)
        content = self.read(name)
        _compare_size(name, len(content), blob.size)
        _compare_digest(name, "sha256:" + hashlib.sha256(content).hexdigest(), blob.digest)
        return _json(name, content)


class FolderLayout(Layout):
    """A layout in a folder. Links are followed only while they stay inside it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._root = path.resolve()

    def _file(self, name: str) -> Path:
        file = (self._root / name).resolve()
        if self._root not in file.parents:
            raise LayoutError(name, "leads out of the layout")
        if not file.is_file():
            raise MissingFileError(name)
        return file

    def open(self, name: str) -> IO[bytes]:
        return self._file(name).open("rb")

    def size(self, name: str) -> int:
        return self._file(name).stat().st_size

    def names(self) -> Iterator[str]:
        for file in self._root.rglob("*"):
            if file.is_file():
                yield file.relative_to(self._root).as_posix()

    def location(self, name: str) -> tuple[Path, int]:
        return self._file(name), 0


class TarLayout(Layout):
    """A layout inside an uncompressed tar, read in place. Raises LayoutError for what is no such tar."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            with TarStream(path) as stream:
                if stream.compression:
                    raise UntrustedTarError(f"is compressed by {stream.compression}, a plain tar is expected")
                self._members = {name: member for name, member in stream.members() if member.isreg()}
        except FileNotFoundError:
            raise MissingFileError(path.name) from None
        except (OSError, UntrustedTarError) as error:
            raise LayoutError(path.name, str(error)) from error

    def _member(self, name: str) -> tarfile.TarInfo:
        try:
            return self._members[name]
        except KeyError:
            raise MissingFileError(name) from None

    def open(self, name: str) -> IO[bytes]:
        member = self._member(name)
        return io.BufferedReader(Section(self.path, member.offset_data, member.size), CHUNK)

    def size(self, name: str) -> int:
        return self._member(name).size

    def names(self) -> Iterable[str]:
        return self._members.keys()

    def location(self, name: str) -> tuple[Path, int]:
        return self.path, self._member(name).offset_data


class Section(io.RawIOBase):
    """`size` bytes of a file from `offset` on, with a file handle of its own so that threads can share a layout."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._file.seek(offset)
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: self._left]
        count = self._file.readinto(view) or 0
        self._left -= count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _compare_size(name: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise LayoutError(name, f"has {found} bytes instead of {wanted}")


def _compare_digest(name: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise LayoutError(name, f"its content has the digest {found} instead of {wanted}")


def open_layout(path: Path) -> Layout:
    """The layout at `path`, a folder or a tar. Raises LayoutError."""
    layout: Layout = FolderLayout(path) if path.is_dir() else TarLayout(path)
    marker = _json("oci-layout", layout.read("oci-layout"))
    if not isinstance(marker, dict) or marker.get("imageLayoutVersion") != "1.0.0":
        raise LayoutError("oci-layout", "does not state imageLayoutVersion 1.0.0")
    return layout


def hash_stream(stream: IO[bytes]) -> str:
    """``sha256:<hex>`` of what is left in `stream`."""
    digest = hashlib.sha256()
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    while True:
        count = stream.readinto(view)  # type: ignore[attr-defined]
        if not count:
            return "sha256:" + digest.hexdigest()
        digest.update(view[:count])


def _json(name: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise LayoutError(name, f"not JSON ({error})") from error


def _descriptor(where: str, value: object) -> Blob:
    if not isinstance(value, dict):
        raise LayoutError(where, "a descriptor is not an object")
    digest, size = value.get("digest"), value.get("size")
    if not is_digest(digest):
        raise LayoutError(where, f"{digest!r} is not a digest")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise LayoutError(where, f"{digest} has the size {size!r}")
    return Blob(str(digest), size)


def _descriptors(where: str, document: object, key: str) -> list[dict[str, Any]]:
    value = document.get(key) if isinstance(document, dict) else None
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise LayoutError(where, f"has no list {key!r}")
    return value


def _platform_text(value: object) -> str:
    """``linux/amd64`` or ``linux/arm/v7`` of a platform object, empty if it does not say."""
    if not isinstance(value, dict) or not value.get("os") or not value.get("architecture"):
        return ""
    parts = [value["os"], value["architecture"], value.get("variant") or ""]
    return "/".join(str(part) for part in parts if part)


def same_platform(found: str, wanted: str) -> bool:
    """Whether an image for `found` runs on `wanted`; a variant matters only where one is asked for.

    Images for amd64 state v1 at times.
    """
    return found == wanted or found.startswith(wanted + "/")


def entries(layout: Layout) -> list[tuple[str, dict[str, Any]]]:
    """(full reference or "", descriptor) for every entry of index.json. Raises LayoutError."""
    index = _json("index.json", layout.read("index.json"))
    found = []
    for descriptor in _descriptors("index.json", index, "manifests"):
        annotations = descriptor.get("annotations")
        reference = ""
        if isinstance(annotations, dict):
            name = next((annotations[key] for key in NAME_ANNOTATIONS if annotations.get(key)), "")
            with suppress(ImageReferenceError):
                reference = normalise(name)
        found.append((reference, descriptor))
    return found


def resolve(
    layout: Layout, descriptor: Mapping[str, Any], platform: str, where: str = "index.json", partial: bool = False
) -> list[Image]:
    """The images of `platform` (all, if empty) below a descriptor (a manifest, or an index of any depth), unnamed.

    Manifests and configurations are read and verified, layers are not. With `partial`, what an index names and the
    layout does not hold is passed over, as are its attestations: ``docker save`` writes one platform of an index, and
    the whole index. Raises LayoutError.
    """
    return list(_resolve(layout, descriptor, platform, where, 0, partial))


def _resolve(
    layout: Layout, descriptor: Mapping[str, Any], platform: str, where: str, depth: int, partial: bool
) -> Iterator[Image]:
    if depth > MAX_NESTING:
        raise LayoutError(where, f"indexes nested deeper than {MAX_NESTING}")
    blob = _descriptor(where, descriptor)
    name = blob_file(blob.digest)
    stated = _platform_text(descriptor.get("platform"))
    if stated and platform and not same_platform(stated, platform):
        return
    document = layout.document(blob)
    media_type = descriptor.get("mediaType") or (document.get("mediaType") if isinstance(document, dict) else None)
    if media_type in INDEX_TYPES:
        held = set(layout.names()) if partial else set()
        for child in _descriptors(name, document, "manifests"):
            absent = partial and blob_file(str(child.get("digest"))) not in held
            if not absent and not (partial and _platform_text(child.get("platform")).startswith("unknown/")):
                yield from _resolve(layout, child, platform, name, depth + 1, partial)
        return
    if media_type not in MANIFEST_TYPES:
        raise LayoutError(name, f"media type {media_type!r} is not that of an image")
    config = _descriptor(name, document.get("config") if isinstance(document, dict) else None)
    layers = [_descriptor(name, layer) for layer in _descriptors(name, document, "layers")]
    found = _platform_text(layout.document(config))
    if platform and not same_platform(found, platform):
        return
    yield Image("", blob.digest, str(media_type), found, (blob, config, *layers))


def images(layout: Layout, platform: str = "", partial: bool = False) -> list[Image]:
    """Every image of index.json, with its reference; `platform` and `partial` as for `resolve`. Raises LayoutError."""
    return [
        image._replace(reference=reference)
        for reference, descriptor in entries(layout)
        for image in resolve(layout, descriptor, platform, partial=partial)
    ]


def verify_archive(layout: Layout, held: Iterable[str] = ()) -> list[Image]:
    """Hash every blob of a layout and check that its images are whole; `held` are digests that the receiver has.

    Returns the images. Raises LayoutError for a file whose name is not the digest of its content, for a blob that
    neither the layout nor the receiver has, and for files that do not belong into a layout.
    """
    names = set(layout.names())
    for name in sorted(names - {"oci-layout", "index.json"}):
        digest = "sha256:" + name.rpartition("/")[2]
        if not is_digest(digest) or name != blob_file(digest):
            raise LayoutError(name, "does not belong into an image layout")
        layout.verify(Blob(digest, layout.size(name)))
    known = set(held)
    found = images(layout)
    for image in found:
        for blob in image.blobs:
            name = blob_file(blob.digest)
            if name in names:
                _compare_size(name, layout.size(name), blob.size)
            elif blob.digest not in known:
                raise MissingFileError(name)
    return found


class ArchiveImage(NamedTuple):
    """What `write_archive` takes: an image and the layout that holds its blobs."""

    image: Image
    layout: Layout


def archive_index(chosen: Iterable[ArchiveImage]) -> bytes:
    """index.json of an archive: one manifest for each image, sorted, with its reference in both annotations."""
    manifests = []
    for image in sorted((item.image for item in chosen), key=lambda image: image.reference):
        os_name, _slash, architecture = image.platform.partition("/")
        architecture, _slash, variant = architecture.partition("/")
        platform = {"architecture": architecture, "os": os_name}
        if variant:
            platform["variant"] = variant
        manifests.append(
            {
                "mediaType": image.media_type,
                "digest": image.digest,
                "size": image.blobs[0].size,
                "platform": platform,
                "annotations": {key: image.reference for key in NAME_ANNOTATIONS},
            }
        )
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": manifests}
    return json.dumps(index, sort_keys=True, separators=(",", ":")).encode()


def archive_blobs(chosen: Iterable[ArchiveImage], excluded: Iterable[str] = ()) -> dict[str, tuple[Blob, Layout]]:
    """The blobs of an archive by digest, sorted, each once.

    Manifests and configurations are never left out: they are small, and without them nobody can say what is missing.
    """
    left_out = set(excluded)
    blobs = {}
    for item in chosen:
        for position, blob in enumerate(item.image.blobs):
            if position < 2 or blob.digest not in left_out:
                blobs[blob.digest] = (blob, item.layout)
    return dict(sorted(blobs.items()))


def archive_key(chosen: Iterable[ArchiveImage], excluded: Iterable[str] = ()) -> str:
    """Name of an archive by its content (hexadecimal); equal keys mean byte-equal archives."""
    chosen = list(chosen)
    digest = hashlib.sha256(archive_index(chosen))
    for name in archive_blobs(chosen, excluded):
        digest.update(name.encode())
    return digest.hexdigest()[:32]


def write_archive(stream: IO[bytes], chosen: Iterable[ArchiveImage], excluded: Iterable[str] = ()) -> int:
    """Write images as an OCI archive (uncompressed tar); equal images give equal bytes. Returns the number of blobs.

    Every blob is hashed on its way. Raises LayoutError, and what was written until then is of no use.
    """
    chosen = list(chosen)
    blobs = archive_blobs(chosen, excluded)
    with tarfile.open(fileobj=stream, mode="w:", format=tarfile.PAX_FORMAT) as tar:
        for name, content in (
            ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
            ("index.json", archive_index(chosen)),
        ):
            tar.addfile(tar_member(name, len(content)), io.BytesIO(content))
        for digest, (blob, layout) in blobs.items():
            name = blob_file(digest)
            size = layout.size(name)
            _compare_size(name, size, blob.size)
            with layout.open(name) as source:
                hashed = HashingReader(source)
                try:
                    tar.addfile(tar_member(name, size), hashed)  # type: ignore[arg-type]
                except OSError as error:
                    raise LayoutError(name, f"cannot be read ({error})") from error
            _compare_digest(f"{layout.path.name}:{name}", hashed.digest, digest)
    return len(blobs)


def tar_member(name: str, size: int) -> tarfile.TarInfo:
    """A member of an archive with nothing in it that differs from day to day."""
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    return member


class HashingReader:
    """A stream that knows the digest of what was read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """As the stream's own read."""
        data = self._stream.read(size)
        self._hash.update(data)
        return data

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` of everything read so far."""
        return "sha256:" + self._hash.hexdigest()
