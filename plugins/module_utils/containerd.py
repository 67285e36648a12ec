"""Images of a node's containerd, read from what ``ctr`` prints and compared with what shall be there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .image_reference import ImageReferenceError, is_digest, normalise

#: containerd's CRI reports an image as pinned if one of its names has this label, and kubelet's garbage collection
#: leaves it alone (1.6 and 1.7 releases since the end of 2023; older ones ignore it).
PINNED = ("io.cri-containerd.pinned", "pinned")
MANAGED_LABEL = "io.cri-containerd.image"


class ContainerdError(Exception):
    """containerd does not answer as it should; the message names the command, what it said and the cure."""


class StoredImage(NamedTuple):
    """One line of ``ctr images ls``."""

    reference: str
    media_type: str
    digest: str
    labels: Mapping[str, str]

    @property
    def pinned(self) -> bool:
        """Whether kubelet's garbage collection leaves it alone."""
        return self.labels.get(PINNED[0]) == PINNED[1]


class Difference(NamedTuple):
    """Wanted images by what is wrong with them on this node; all empty if nothing is.

    `missing`: no such name. `different`: name -> digest that is there instead. `incomplete`: content is lacking.
    `unpinned`: there and whole, but without the label.
    """

    missing: list[str]
    different: dict[str, str]
    incomplete: list[str]
    unpinned: list[str]

    @property
    def to_import(self) -> list[str]:
        """What an archive has to bring, sorted."""
        return sorted({*self.missing, *self.different, *self.incomplete})


def parse_list(text: str) -> dict[str, StoredImage]:
    """Read the output of ``ctr images ls``. Sizes have a blank in them, so only the first columns and labels count."""
    images = {}
    for line in text.splitlines():
        columns = line.split()
        if len(columns) < 3 or not is_digest(columns[2]):
            continue
        labels = dict(pair.partition("=")[::2] for column in columns[3:] if "=" in column for pair in column.split(","))
        images[columns[0]] = StoredImage(columns[0], columns[1], columns[2], labels)
    return images


def parse_check(text: str) -> dict[str, bool]:
    """Reference -> whether all its content is there, from the output of ``ctr images check``."""
    complete = {}
    for line in text.splitlines():
        columns = line.split()
        if len(columns) >= 4 and is_digest(columns[2]):
            complete[columns[0]] = columns[3] == "complete"
    return complete


def parse_content(text: str) -> list[str]:
    """Digests of ``ctr content ls -q``."""
    return [line.strip() for line in text.splitlines() if is_digest(line.strip())]


def index_holds(index: str, digest: str) -> bool:
    """Whether an image index (JSON) lists a manifest."""
    try:
        manifests = json.loads(index).get("manifests")
    except (ValueError, AttributeError):
        return False
    return any(isinstance(entry, dict) and entry.get("digest") == digest for entry in manifests or ())


def validate_wanted(images: Mapping[str, object]) -> dict[str, str]:
    """Wanted images by full reference. Raises ContainerdError for a name or digest that is none."""
    wanted = {}
    for reference, digest in images.items():
        if not is_digest(digest):
            raise ContainerdError(f"images[{reference!r}]: {digest!r} is not a digest (sha256: and 64 digits)")
        try:
            wanted[normalise(reference)] = str(digest)
        except ImageReferenceError as error:
            raise ContainerdError(f"images: {error}") from error
    return wanted


def compare(
    wanted: Mapping[str, str],
    stored: Mapping[str, StoredImage],
    complete: Mapping[str, bool],
    in_index: Iterable[str] = (),
    pin: bool = False,
) -> Difference:
    """Wanted images (reference -> manifest digest) against those of a node.

    `complete` as from `parse_check`; `in_index` are references whose target is an index that lists the wanted
    manifest: an image that was pulled has the index's digest, not the manifest's.
    """
    difference = Difference([], {}, [], [])
    indexed = set(in_index)
    for reference, digest in sorted(wanted.items()):
        image = stored.get(reference)
        if image is None:
            difference.missing.append(reference)
        elif image.digest != digest and reference not in indexed:
            difference.different[reference] = image.digest
        elif not complete.get(reference):
            difference.incomplete.append(reference)
        elif pin and not image.pinned:
            difference.unpinned.append(reference)
    return difference


def state_text(wanted: Mapping[str, str], difference: Difference, pin: bool) -> str:
    """The wanted images as this node has them, one a line, for a diff."""
    lines = []
    for reference, digest in sorted(wanted.items()):
        if reference in difference.missing:
            continue
        found = difference.different.get(reference, digest)
        notes = [" incomplete"] if reference in difference.incomplete else []
        if pin and reference not in difference.unpinned and not notes and found == digest:
            notes.append(" pinned")
        lines.append(f"{reference} {found}{''.join(notes)}\n")
    return "".join(lines)
