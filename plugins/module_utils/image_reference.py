"""Names of container images, read the way containerd reads them.

``busybox`` and ``docker.io/library/busybox:latest`` are one image: everything that compares names compares the full
form. Names come from charts, manifests and inventories; what is not a valid name is refused here, before it becomes
part of a path or of a URL.
"""

from __future__ import annotations

import re
from typing import NamedTuple

DEFAULT_REGISTRY = "docker.io"

_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*(?::[0-9]{1,5})?")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_NAME = 255


class ImageReferenceError(ValueError):
    """A text that is not an image reference; the message names it and says what is wrong."""


class ImageReference(NamedTuple):
    """An image in full: ``registry/repository:tag@digest``; tag or digest may be empty, never both."""

    registry: str
    repository: str
    tag: str
    digest: str

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def name(self) -> str:
        """``registry/repository``."""
        return f"{self.registry}/{self.repository}"

    @property
    def mirror_repository(self) -> str:
        """The repository that holds this image in the registry on the head: ``registry/repository`` as a path.

        Raises ImageReferenceError for a registry with a port: a colon cannot be part of a repository's name.
        """
        if ":" in self.registry:
            raise ImageReferenceError(
                f"{self}: a registry with a port ({self.registry}) cannot be mirrored; "
                "publish the image under a host name without a port"
            )
        return self.name


def is_digest(text: object) -> bool:
    """Whether `text` is ``sha256:`` and 64 hexadecimal digits."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def parse(text: str) -> ImageReference:
    """Read an image reference; short names get ``docker.io``, ``library/`` and ``latest`` as containerd adds them.

    Raises ImageReferenceError.
    """
    if not isinstance(text, str) or not text:
        raise ImageReferenceError(f"not an image reference: {text!r}")
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise ImageReferenceError(f"{text!r}: {digest!r} is not a digest (sha256: and 64 hexadecimal digits)")
    head, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    if colon and _TAG.fullmatch(tag) is None:
        raise ImageReferenceError(f"{text!r}: {tag!r} is not a tag (letters, digits, '_', '.', '-'; at most 128)")
    path = head + slash + last
    first, slash, remainder = path.partition("/")
    # As in Docker's grammar: a first component is a host only if it looks like one.
    if slash and ("." in first or ":" in first or first == "localhost"):
        registry, repository = first, remainder
    else:
        registry, repository = DEFAULT_REGISTRY, path
    if registry == "index.docker.io":
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = f"library/{repository}"
    if _HOST.fullmatch(registry) is None:
        raise ImageReferenceError(f"{text!r}: {registry!r} is not the name of a registry")
    for component in repository.split("/"):
        if _COMPONENT.fullmatch(component) is None:
            raise ImageReferenceError(
                f"{text!r}: {component!r} is not part of a repository's name "
                "(lower-case letters and digits, between them '.', '_', '__' or '-')"
            )
    if len(registry) + 1 + len(repository) > _MAX_NAME:
        raise ImageReferenceError(f"{text[:40]!r}...: longer than {_MAX_NAME} characters")
    if not tag and not digest:
        tag = "latest"
    return ImageReference(registry, repository, tag, digest)


def normalise(text: str) -> str:
    """The full form of an image reference, as containerd stores it. Raises ImageReferenceError."""
    return str(parse(text))
