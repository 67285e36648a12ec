"""manifest.json of a bundle: read, and refused with the field that is wrong. docs/bundle.md describes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from .image_reference import ImageReferenceError, is_digest, normalise

SCHEMA = 1
MANIFEST = "manifest.json"
#: Kinds of items and the lists of manifest.json that name them.
KINDS = {"snap": "snaps", "chart": "charts", "binary": "binaries", "wheel": "wheels", "deb": "debs"}
COPY_AGAIN = "copy it again from where the bundle was made"


class BundleError(Exception):
    """The bundle cannot be used at all; the message names the file, the field and the cure."""


class File(NamedTuple):
    """A file of the bundle: relative path, digest, size in bytes."""

    path: str
    digest: str
    size: int


class BundledImage(NamedTuple):
    """An image as manifest.json states it; `archive` is an OCI layout (a folder or a tar), relative."""

    reference: str
    digest: str
    platform: str
    size: int
    archive: str


class Item(NamedTuple):
    """A snap, chart, binary, wheel or deb; the first of `files` is the thing itself, a snap's second its assertion.

    `platform` is that of a binary (``linux/amd64``) or a deb (``debian-13/amd64``: distribution and architecture).
    `depends` and `provides` are those fields of a deb, in Debian's words.
    """

    kind: str
    name: str
    version: str
    platform: str
    revision: str
    classic: bool
    files: tuple[File, ...]
    depends: str = ""
    provides: str = ""


class Manifest(NamedTuple):
    """manifest.json, valid."""

    images: tuple[BundledImage, ...]
    items: tuple[Item, ...]

    def of(self, kind: str) -> list[Item]:
        """The items of one kind: ``snap``, ``chart``, ``binary``, ``wheel``, ``deb``."""
        return [item for item in self.items if item.kind == kind]


class _Fields:
    """Reads the fields of one entry and names what is wrong by its place: ``images[3].digest``."""

    def __init__(self, place: str, value: object) -> None:
        self.place = place
        if not isinstance(value, dict):
            raise BundleError(f"{MANIFEST}: {place} is {_kind(value)}, an object is expected")
        self._value = value

    def wrong(self, field: str, text: str) -> BundleError:
        return BundleError(f"{MANIFEST}: {self.place}.{field} {text}")

    def text(self, field: str, optional: bool = False) -> str:
        value = self._value.get(field)
        if value is None and optional:
            return ""
        if field not in self._value:
            raise self.wrong(field, "is missing")
        if not isinstance(value, str) or not value:
            raise self.wrong(field, f"is {value!r}, a text is expected")
        return value

    def flag(self, field: str) -> bool:
        value = self._value.get(field, False)
        if not isinstance(value, bool):
            raise self.wrong(field, f"is {value!r}, true or false is expected")
        return value

    def size(self, field: str = "size") -> int:
        value = self._value.get(field)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.wrong(field, f"is {value!r}, a number of bytes is expected")
        return value

    def digest(self, field: str = "digest") -> str:
        value = self.text(field)
        if not is_digest(value):
            raise self.wrong(field, f"is {value!r}, sha256: and 64 hexadecimal digits are expected")
        return value

    def path(self, field: str) -> str:
        value = self.text(field)
        parts = PurePosixPath(value).parts
        if value.startswith("/") or ".." in parts or "\\" in value or not parts or not value.isprintable():
            raise self.wrong(field, f"is {value!r}, a path inside the bundle is expected")
        return str(PurePosixPath(*parts))


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", str: "a text", type(None): "nothing"}.get(type(value), repr(value))


def parse_manifest(content: bytes | str) -> Manifest:
    """Read and validate manifest.json. Raises BundleError with file, field and value."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST}: not JSON ({error}); {COPY_AGAIN}") from error
    if not isinstance(document, dict):
        raise BundleError(f"{MANIFEST}: is {_kind(document)}, an object is expected")
    if document.get("schema") != SCHEMA:
        raise BundleError(
            f"{MANIFEST}: schema is {document.get('schema')!r}, this release reads {SCHEMA}; "
            "make the bundle with the same release"
        )
    images = [_image(fields) for fields in _list(document, "images")]
    items = [_item(kind, fields) for kind, key in KINDS.items() for fields in _list(document, key)]
    seen: dict[str, str] = {}
    for position, image in enumerate(images):
        if seen.setdefault(image.reference, image.digest) != image.digest:
            raise BundleError(f"{MANIFEST}: images[{position}].reference {image.reference} has two digests")
    return Manifest(tuple(images), tuple(items))


def _list(document: Mapping[str, Any], key: str) -> list[_Fields]:
    value = document.get(key, [])
    if not isinstance(value, list):
        raise BundleError(f"{MANIFEST}: {key} is {_kind(value)}, a list is expected")
    return [_Fields(f"{key}[{position}]", entry) for position, entry in enumerate(value)]


def _image(fields: _Fields) -> BundledImage:
    try:
        reference = normalise(fields.text("reference"))
    except ImageReferenceError as error:
        raise fields.wrong("reference", f"cannot be read: {error}") from error
    return BundledImage(reference, fields.digest(), fields.text("platform"), fields.size(), fields.path("archive"))


def _item(kind: str, fields: _Fields) -> Item:
    files = [File(fields.path("file"), fields.digest(), fields.size())]
    if kind == "snap":
        files.append(File(fields.path("assertion"), fields.digest("assertion_digest"), -1))
    platform = ""
    if kind == "binary":
        platform = fields.text("platform")
    elif kind == "deb":
        platform = f"{fields.text('distribution')}/{fields.text('architecture')}"
    return Item(
        kind,
        fields.text("name"),
        fields.text("version"),
        platform,
        str(fields.text("revision")) if kind == "snap" else "",
        fields.flag("classic"),
        tuple(files),
        fields.text("depends", optional=True) if kind == "deb" else "",
        fields.text("provides", optional=True) if kind == "deb" else "",
    )


def load(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`. Raises BundleError."""
    try:
        content = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        missing = MANIFEST if folder.is_dir() else "folder"
        raise BundleError(
            f"{folder}: there is no bundle here (no {missing}); put one there (docs/bundle.md), or say where it is by "
            "offline_images_bundle; a relative path begins where the playbook is started"
        ) from None
    except OSError as error:
        raise BundleError(f"{folder / MANIFEST}: cannot be read ({error.strerror})") from error
    return parse_manifest(content)
