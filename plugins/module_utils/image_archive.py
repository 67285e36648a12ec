"""Image archives made by hand, seen as OCI image layouts.

What ``docker save``, ``podman save``, ``skopeo copy`` and ``buildah push`` write is read as it is: docker archives (a
manifest.json beside configurations and layers) and tars of an OCI image layout, with any number of images, compressed
or not.

One look from the first to the last byte finds where everything is. Its result is remembered, so that the next look at
an archive that has not changed reads nothing but that memory. Blobs of an uncompressed archive are read in place. Those
of a compressed one, which cannot be read in place, are unpacked once, as far as they are needed, into a folder of blobs
by digest. Whoever reads a blob compares its digest, as with every layout.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import posixpath
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from .atomic_file import replacement, write_text
from .image_reference import ImageReferenceError, is_digest, normalise
from .oci import (
    MANIFEST_TYPES,
    MAX_DOCUMENT,
    ArchiveImage,
    Blob,
    Image,
    Layout,
    LayoutError,
    MissingFileError,
    Section,
    archive_index,
    blob_file,
    images,
)
from .progress import Progress, silent
from .untrusted_tar import CHUNK, Opener, TarStream, UntrustedTarError, compression, link_target
from .verified_files import file_state

#: Endings of the files that are taken for image archives.
ENDINGS = tuple(f".{name}" for name in ("tar", "tar.gz", "tgz", "tar.zst", "tar.zstd", "tzst", "tar.xz", "tar.bz2"))
#: Version of what is remembered.
FORMAT = 1
#: All JSON of an archive together.
MAX_DOCUMENTS = 64 * 1024 * 1024
#: Bytes that unpacking leaves free.
MARGIN = 1024**3
MAX_LINKS = 8

_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPES = {
    "": "application/vnd.oci.image.layer.v1.tar",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}


class SpaceError(Exception):
    """There is no room to unpack; the message says where, how much is needed and what helps."""


class Place(NamedTuple):
    """Where a blob is: offset and size in bytes in the unpacked archive."""

    offset: int
    size: int


class Contents(NamedTuple):
    """An archive as an OCI layout: its JSON documents by name, the places of all other blobs by digest."""

    compression: str
    documents: dict[str, bytes]
    places: dict[str, Place]


# ---- one look at an archive ---------------------------------------------------------------------------------------


class _Member(NamedTuple):
    place: Place
    compression: str
    digest: str  # of what is compressed; the digest of what is not is in the image's configuration


class _Scan:
    """What is in an archive under which name."""

    def __init__(self, stream: TarStream) -> None:
        self.members: dict[str, _Member] = {}
        self.documents: dict[str, bytes] = {}
        self._links: dict[str, str] = {}
        total = 0
        for name, header in stream.members():
            if header.issym():
                self._links[name] = link_target(name, header.linkname)
            elif header.islnk():
                self._links[name] = posixpath.normpath(header.linkname)
            else:
                self._file(stream, name, Place(header.offset_data, header.size))
                total += len(self.documents.get(name, b""))
                if total > MAX_DOCUMENTS:
                    raise UntrustedTarError(f"holds more than {MAX_DOCUMENTS} bytes of JSON, which no image has")

    def _file(self, stream: TarStream, name: str, place: Place) -> None:
        chunks = stream.chunks(*place)
        start = next(chunks, b"")
        kind, digest = "", ""
        if start[:1] in (b"{", b"[") and place.size <= MAX_DOCUMENT:
            self.documents[name] = b"".join((start, *chunks))
        elif not name.startswith("blobs/"):  # there the name is the digest
            kind = compression(start)
            if kind:
                digest = _digest(start, *chunks)
        self.members[name] = _Member(place, kind, digest)

    def resolve(self, name: str) -> str:
        """The name of the file that `name` is, or leads to. Raises MissingFileError."""
        name = posixpath.normpath(name)
        for _step in range(MAX_LINKS):
            if name in self.members:
                return name
            if name not in self._links:
                break
            name = self._links[name]
        raise MissingFileError(name)

    def document(self, name: str) -> bytes:
        """A JSON document. Raises LayoutError."""
        name = self.resolve(name)
        if name not in self.documents:
            raise LayoutError(name, "is no JSON document")
        return self.documents[name]


def _digest(*chunks: bytes) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return "sha256:" + digest.hexdigest()


def read_archive(path: Path, zstd: Opener | None = None, progress: Progress = silent) -> Contents:
    """Look through an archive; its blobs are found, not verified. Raises LayoutError with the name of the archive."""
    try:
        with TarStream(path, zstd, progress) as stream:
            scan = _Scan(stream)
        if "index.json" in scan.documents:
            documents, places = _of_layout(path, scan)
        elif "manifest.json" in scan.documents:
            documents, places = _of_docker(path, scan)
        elif "repositories" in scan.documents:
            raise UntrustedTarError("was written by Docker before 1.10: load and save it with a newer one")
        else:
            raise UntrustedTarError("holds no images: neither manifest.json (docker save) nor index.json (OCI layout)")
    except FileNotFoundError:
        raise MissingFileError(path.name) from None
    except (UntrustedTarError, LayoutError) as error:
        raise LayoutError(path.name, str(error)) from error
    except OSError as error:
        raise LayoutError(path.name, f"cannot be read ({error.strerror or error})") from error
    return Contents(stream.compression, documents, places)


def _of_layout(path: Path, scan: _Scan) -> tuple[dict[str, bytes], dict[str, Place]]:
    """Documents and places of an OCI layout, with an index that names no more than the images that are there."""
    places = {_digest_of(name): member.place
              for name, member in scan.members.items() if name.startswith("blobs/sha256/")}  # fmt: skip
    whole = ArchiveLayout(path, Contents("", scan.documents, places))
    found = images(whole, partial=True)
    documents = {blob_file(blob.digest): whole.read(blob_file(blob.digest))
                 for image in found for blob in image.blobs[:2]}  # fmt: skip
    return _with_index(documents, found, whole), places


def _of_docker(path: Path, scan: _Scan) -> tuple[dict[str, bytes], dict[str, Place]]:
    """Documents and places of a docker archive; each image gets a manifest that only depends on its content."""
    documents: dict[str, bytes] = {}
    places: dict[str, Place] = {}
    found = []
    for position, entry in enumerate(_list("manifest.json", _json("manifest.json", scan.document("manifest.json")))):
        where = f"manifest.json[{position}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("Config"), str):
            raise LayoutError(where, "names no configuration")
        content = scan.document(entry["Config"])
        config = Blob(_digest(content), len(content))
        # Who names a file by its digest means it: Docker's <hex>.json, sha256:<hex> of others.
        stated = "sha256:" + posixpath.basename(entry["Config"]).partition(".")[0].rpartition(":")[2]
        if is_digest(stated) and stated != config.digest:
            raise LayoutError(entry["Config"], f"its content has the digest {config.digest}")
        layers = _docker_layers(where, entry, _json(entry["Config"], content), scan)
        places.update((digest, member.place) for digest, member in layers)
        manifest = _manifest(config, layers)
        digest = _digest(manifest)
        documents.update({blob_file(config.digest): content, blob_file(digest): manifest})
        blobs = (Blob(digest, len(manifest)), config, *(Blob(name, member.place.size) for name, member in layers))
        image = Image("", digest, MANIFEST_TYPES[0], _platform(_json(entry["Config"], content)), blobs)
        names = [_name(where, tag) for tag in _list(where, entry.get("RepoTags") or [])]
        found += [image._replace(reference=name) for name in names or [""]]
    return _with_index(documents, found, ArchiveLayout(path, Contents("", documents, places))), places


def _docker_layers(where: str, entry: Mapping[str, Any], config: Any, scan: _Scan) -> list[tuple[str, _Member]]:
    """Digest and member of each layer, the lowest first."""
    rootfs = config.get("rootfs") if isinstance(config, dict) else None
    contents = _list(entry["Config"], rootfs.get("diff_ids") if isinstance(rootfs, dict) else None)
    names = _list(where, entry.get("Layers"))
    if len(names) != len(contents) or not all(is_digest(content) for content in contents):
        raise LayoutError(where, f"has {len(names)} layers, its configuration states {len(contents)} digests for them")
    layers = []
    for name, content in zip(names, contents):
        member = scan.members[scan.resolve(str(name))]
        if member.compression not in _LAYER_TYPES:
            raise LayoutError(str(name), f"is a layer compressed by {member.compression}; images have gzip or zstd")
        layers.append((member.digest or str(content), member))
    return layers


def _manifest(config: Blob, layers: Iterable[tuple[str, _Member]]) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPES[0],
        "config": {"mediaType": _CONFIG_TYPE, "digest": config.digest, "size": config.size},
        "layers": [
            {"mediaType": _LAYER_TYPES[member.compression], "digest": digest, "size": member.place.size}
            for digest, member in layers
        ],
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _with_index(documents: dict[str, bytes], found: Iterable[Image], layout: Layout) -> dict[str, bytes]:
    index = archive_index(ArchiveImage(image, layout) for image in found)
    return {**documents, "index.json": index, "oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}


def _platform(config: Any) -> str:
    parts = (config.get(key) for key in ("os", "architecture", "variant")) if isinstance(config, dict) else ()
    return "/".join(str(part) for part in parts if part)


def _name(where: str, tag: object) -> str:
    try:
        return normalise(str(tag))
    except ImageReferenceError as error:
        raise LayoutError(where, f"RepoTags: {error}") from error


def _list(where: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise LayoutError(where, "a list is missing where one is expected")
    return value


def _json(name: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise LayoutError(name, f"not JSON ({error})") from error


# ---- archives and their memory ------------------------------------------------------------------------------------


class ArchiveLayout(Layout):
    """An archive made by hand as an OCI layout. The blobs of a compressed one are in `unpacked` once required."""

    def __init__(self, path: Path, contents: Contents, unpacked: Unpacked | None = None) -> None:
        super().__init__(path)
        self.contents = contents
        self._unpacked = unpacked

    def _place(self, name: str) -> Place:
        try:
            return self.contents.places[_digest_of(name)]
        except KeyError:
            raise MissingFileError(name) from None

    def open(self, name: str) -> IO[bytes]:
        if name in self.contents.documents:
            return io.BytesIO(self.contents.documents[name])
        file, offset = self.location(name)
        return io.BufferedReader(Section(file, offset, self.size(name)), CHUNK)

    def size(self, name: str) -> int:
        document = self.contents.documents.get(name)
        return self._place(name).size if document is None else len(document)

    def names(self) -> Iterator[str]:
        yield from self.contents.documents
        yield from (blob_file(digest) for digest in self.contents.places)

    def location(self, name: str) -> tuple[Path, int]:
        if name in self.contents.documents:
            return self.path, 0
        place = self._place(name)
        if not self.contents.compression:
            return self.path, place.offset
        file = self._unpacked.file(_digest_of(name)) if self._unpacked else None
        if file is None or not file.is_file():
            raise MissingFileError(name)
        return file, 0

    def require(self, blobs: Iterable[Blob]) -> list[str]:
        if not self.contents.compression:
            return []
        if self._unpacked is None:
            raise LayoutError(self.path.name, "is compressed, and no folder for what is unpacked is given")
        return self._unpacked.provide(self.path, self.contents, blobs)

    def verify(self, blob: Blob) -> None:
        try:
            super().verify(blob)
        except LayoutError:
            if not self.contents.compression or self._unpacked is None:
                raise
            # Damaged since it was unpacked: the archive itself decides.
            self._unpacked.file(blob.digest).unlink(missing_ok=True)
            self.require([blob])


class Unpacked:
    """A folder with the blobs of compressed archives, by digest. It may be emptied at any time."""

    def __init__(self, folder: Path, zstd: Opener | None = None, progress: Progress = silent) -> None:
        self._folder = folder
        self._zstd = zstd
        self._progress = progress

    def file(self, digest: str) -> Path:
        """The file that has this blob, once it is provided."""
        return self._folder / digest.partition(":")[2]

    def provide(self, archive: Path, contents: Contents, blobs: Iterable[Blob]) -> list[str]:
        """Unpack blobs that are not there yet, each hashed on its way; returns their digests.

        What an archive does not hold is passed over. Raises LayoutError for a damaged archive, SpaceError, OSError.
        """
        asked = {blob.digest: contents.places[blob.digest] for blob in blobs if blob.digest in contents.places}
        if not self._lacking(asked):
            return []
        self._folder.mkdir(parents=True, exist_ok=True)
        with _locked(self._folder):
            lacking = self._lacking(asked)  # another play may have brought them
            self._check_space(archive, sum(place.size for place in lacking.values()))
            try:
                with TarStream(archive, self._zstd, self._progress) as stream:
                    for digest, place in sorted(lacking.items(), key=lambda item: item[1]):
                        self._unpack(archive, digest, stream.chunks(*place))
            except UntrustedTarError as error:
                raise LayoutError(archive.name, str(error)) from error
        return list(lacking)

    def _lacking(self, places: Mapping[str, Place]) -> dict[str, Place]:
        def there(digest: str, place: Place) -> bool:
            file = self.file(digest)
            return file.is_file() and file.stat().st_size == place.size

        return {digest: place for digest, place in places.items() if not there(digest, place)}

    def _check_space(self, archive: Path, needed: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if needed + MARGIN > free:
            raise SpaceError(
                f"{archive.name} is compressed: unpacked it needs {needed / 1e9:.1f} GB in {self._folder}, where "
                f"{free / 1e9:.1f} GB are free; make room, set offline_images_cache, or unpack the archive yourself"
            )

    def _unpack(self, archive: Path, digest: str, chunks: Iterable[bytes]) -> None:
        hashed = hashlib.sha256()
        with replacement(self.file(digest)) as sink:
            for chunk in chunks:
                hashed.update(chunk)
                sink.write(chunk)
            if "sha256:" + hashed.hexdigest() != digest:
                raise LayoutError(archive.name, f"what it holds as {digest} has the digest sha256:{hashed.hexdigest()}")

    def keep(self, digests: Iterable[str]) -> None:
        """Remove everything else."""
        if not self._folder.is_dir():
            return
        kept = {self.file(digest).name for digest in digests}
        with _locked(self._folder):
            for file in self._folder.iterdir():
                if file.name not in kept and file.name != _LOCK:
                    file.unlink()


class Archives:
    """Opens archives made by hand, and remembers what is in them in the folder `cache`."""

    def __init__(self, cache: Path | None = None, zstd: Opener | None = None, progress: Progress = silent) -> None:
        self._index = cache / "index" if cache else None
        self._unpacked = Unpacked(cache / "blobs", zstd, progress) if cache else None
        self._zstd = zstd
        self._progress = progress

    def open(self, path: Path) -> ArchiveLayout:
        """The layout of an archive. Raises LayoutError."""
        try:
            state = file_state(path)
            contents = self._recall(path, state)
            if contents is None:
                contents = read_archive(path, self._zstd, self._progress)
                if file_state(path) != state:
                    raise LayoutError(path.name, "changed while it was read: wait until it is copied")
                self._remember(path, state, contents)
        except FileNotFoundError:
            raise MissingFileError(path.name) from None
        return ArchiveLayout(path, contents, self._unpacked)

    def prune(self) -> None:
        """Forget archives that are gone or have changed, and remove what was unpacked from them."""
        if self._index is None or self._unpacked is None:
            return
        digests: set[str] = set()
        for file in self._index.glob("*.json"):
            known = _load(file)
            try:
                current = file_state(Path(known["path"])) == known["state"]
            except (OSError, KeyError, TypeError):
                current = False
            if current:
                digests.update(known["places"] if known["compression"] else ())
            else:
                file.unlink(missing_ok=True)
        self._unpacked.keep(digests)

    def _file(self, path: Path) -> Path | None:
        name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
        return self._index / f"{name}.json" if self._index else None

    def _recall(self, path: Path, state: list[int]) -> Contents | None:
        file = self._file(path)
        known = _load(file) if file else {}
        if known.get("state") != state or known.get("format") != FORMAT:
            return None
        documents = {name: text.encode() for name, text in known["documents"].items()}
        return Contents(known["compression"], documents, {key: Place(*value) for key, value in known["places"].items()})

    def _remember(self, path: Path, state: list[int], contents: Contents) -> None:
        file = self._file(path)
        if file is None:
            return
        known = {
            "format": FORMAT,
            "path": str(path.resolve()),
            "state": state,
            "compression": contents.compression,
            "places": contents.places,
        }
        # A memory that cannot be written costs time, nothing else. What is no text was no JSON either.
        with suppress(OSError, UnicodeDecodeError):
            known["documents"] = {name: content.decode() for name, content in contents.documents.items()}
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(known), 0o600)


_LOCK = ".lock"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _load(file: Path) -> dict[str, Any]:
    """What is remembered in a file, nothing if it cannot be read."""
    try:
        known = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _digest_of(name: str) -> str:
    return "sha256:" + name.rpartition("/")[2]
