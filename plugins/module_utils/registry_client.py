"""A registry spoken to over a unix socket: what it holds, and how images of an OCI archive get into it."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote, urlsplit

from .image_reference import ImageReference, ImageReferenceError, is_digest, parse
from .oci import INDEX_TYPES, MANIFEST_TYPES, Blob, Image, Layout, blob_file

_ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
_CHUNK = 1024 * 1024


class RegistryError(Exception):
    """The registry refused or did not answer; the message says what was asked, what came back and the cure."""


class Answer(NamedTuple):
    """Status, headers (names in lower case) and body of an answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("registry", timeout=timeout, blocksize=_CHUNK)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Registry:
    """The distribution API over a unix socket, as far as it is needed here."""

    def __init__(self, path: Path, timeout: float = 300) -> None:
        self.path = path
        self._connection = _UnixConnection(path, timeout)

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()

    def wait(self, seconds: float) -> None:
        """Return once the registry answers. Raises RegistryError after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                answer = self.request("GET", "/v2/")
            except RegistryError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.2)
            else:
                if answer.status != 200:
                    raise RegistryError(f"{self.path}: GET /v2/ was answered with {answer.status}: not a registry")
                return

    def request(
        self, method: str, url: str, body: bytes | IO[bytes] | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request. A broken connection is opened again once, unless a stream was half sent."""
        for attempt in (1, 2):
            try:
                self._connection.request(method, url, body=body, headers=dict(headers or {}))
                response = self._connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                # The registry closes a connection that was idle for long; only what is repeatable is repeated.
                stale = isinstance(error, (ConnectionError, http.client.HTTPException))
                connecting = isinstance(error, (FileNotFoundError, ConnectionRefusedError, PermissionError))
                if attempt == 1 and stale and not connecting and not hasattr(body, "read"):
                    continue
                raise RegistryError(
                    f"the registry at {self.path} does not answer {method} {url} ({error or type(error).__name__}); "
                    "see 'kubectl -n gpuhub-system logs deployment/registry -c writer'"
                ) from error
            return Answer(response.status, {key.lower(): value for key, value in response.getheaders()}, content)
        raise AssertionError("unreachable")

    # -- what it holds

    def manifest(self, repository: str, reference: str) -> tuple[str, bytes] | None:
        """Digest and content of a manifest by tag or digest, None if there is none."""
        answer = self.request("GET", f"/v2/{_path(repository)}/manifests/{quote(reference)}", headers={
            "Accept": _ACCEPT,
        })  # fmt: skip
        if answer.status == 404:
            return None
        self._expect(answer, (200,), f"manifest {repository}:{reference}")
        return answer.headers.get("docker-content-digest", ""), answer.body

    def has_blob(self, repository: str, blob: Blob) -> bool:
        """Whether a repository has a blob in its full size."""
        answer = self.request("HEAD", f"/v2/{_path(repository)}/blobs/{blob.digest}")
        if answer.status == 404:
            return False
        self._expect(answer, (200,), f"blob {repository}@{blob.digest}")
        return answer.headers.get("content-length") == str(blob.size)

    def repositories(self) -> list[str]:
        """All repositories."""
        return self._pages("/v2/_catalog?n=1000", "repositories")

    def tags(self, repository: str) -> list[str]:
        """All tags of a repository."""
        return self._pages(f"/v2/{_path(repository)}/tags/list", "tags")

    def _pages(self, url: str, key: str) -> list[str]:
        found: list[str] = []
        while url:
            answer = self.request("GET", url)
            if answer.status == 404:
                return found
            self._expect(answer, (200,), url)
            found += _object(answer.body).get(key) or []
            target = answer.headers.get("link", "").partition(";")[0].strip().strip("<>")
            url = _request_target(target) if target else ""
        return found

    # -- writing

    def mount(self, repository: str, blob: Blob, source: str) -> bool:
        """Take a blob over from another repository of the same registry; False if that has it no more."""
        url = f"/v2/{_path(repository)}/blobs/uploads/?mount={blob.digest}&from={quote(source, safe='')}"
        answer = self.request("POST", url, body=b"")
        if answer.status == 202:  # it began an upload instead
            self.request("DELETE", _request_target(answer.headers.get("location", "")))
            return False
        self._expect(answer, (201,), f"mount {repository}@{blob.digest}")
        return True

    def upload(self, repository: str, blob: Blob, stream: IO[bytes]) -> None:
        """Send a blob; the registry compares its digest. Raises RegistryError."""
        answer = self.request("POST", f"/v2/{_path(repository)}/blobs/uploads/", body=b"")
        self._expect(answer, (202,), f"upload to {repository}")
        target = _request_target(answer.headers.get("location", ""))
        target += ("&" if "?" in target else "?") + f"digest={quote(blob.digest, safe='')}"
        headers = {"Content-Length": str(blob.size), "Content-Type": "application/octet-stream"}
        answer = self.request("PUT", target, body=stream, headers=headers)
        self._expect(answer, (201,), f"upload of {repository}@{blob.digest}")

    def put_manifest(self, repository: str, reference: str, media_type: str, content: bytes) -> str:
        """Store a manifest under a tag or digest; returns the digest that the registry computed."""
        url = f"/v2/{_path(repository)}/manifests/{quote(reference)}"
        answer = self.request("PUT", url, body=content, headers={"Content-Type": media_type})
        self._expect(answer, (201,), f"manifest {repository}:{reference}")
        return answer.headers.get("docker-content-digest", "")

    def _expect(self, answer: Answer, statuses: Iterable[int], what: str) -> None:
        if answer.status in statuses:
            return
        try:
            errors = _object(answer.body).get("errors") or []
            said = "; ".join(f"{error.get('code')}: {error.get('message')}" for error in errors)
        except (RegistryError, AttributeError):
            said = ""
        said = said or answer.body[:200].decode("utf-8", "replace").strip()
        raise RegistryError(f"{self.path}: {what}: the registry answered {answer.status} {said}".rstrip())


def _path(repository: str) -> str:
    return quote(repository, safe="/")


def _request_target(url: str) -> str:
    """Path and query of a URL that the registry gave, absolute or not. Raises RegistryError if there is none."""
    parts = urlsplit(url)
    if not parts.path.startswith("/"):
        raise RegistryError(f"the registry named no address to go on at ({url!r})")
    return parts.path + (f"?{parts.query}" if parts.query else "")


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError as error:
        raise RegistryError(f"the registry's answer is not JSON: {body[:80]!r}") from error
    if not isinstance(value, dict):
        raise RegistryError(f"the registry's answer is not an object: {body[:80]!r}")
    return value


def blobs_of(manifest: bytes) -> list[Blob]:
    """Configuration and layers of a manifest; nothing for an index or what cannot be read."""
    try:
        document = json.loads(manifest)
        entries = [document["config"], *document["layers"]]
        return [Blob(entry["digest"], entry["size"]) for entry in entries]
    except (ValueError, KeyError, TypeError):
        return []


def validate_wanted(images: Mapping[str, object]) -> dict[str, tuple[ImageReference, str]]:
    """Wanted images by full reference. Raises RegistryError for what has no place in the registry."""
    wanted = {}
    for text, digest in images.items():
        if not is_digest(digest):
            raise RegistryError(f"images[{text!r}]: {digest!r} is not a digest (sha256: and 64 digits)")
        try:
            reference = parse(text)
            reference.mirror_repository  # noqa: B018  read for its refusal
        except ImageReferenceError as error:
            raise RegistryError(f"images: {error}") from error
        wanted[str(reference)] = (reference, str(digest))
    return wanted


def missing(registry: Registry, wanted: Mapping[str, tuple[ImageReference, str]]) -> dict[str, str]:
    """Reference -> why it is not whole, for every wanted image that the registry cannot serve as it should.

    An image is whole if its tag (if it has one) names the wanted digest and every blob is there in its full size.
    """
    found = {}
    for reference, (image, digest) in sorted(wanted.items()):
        held = registry.manifest(image.mirror_repository, image.tag or digest)
        if held is None:
            found[reference] = "missing"
        elif held[0] != digest:
            found[reference] = f"has the digest {held[0]}"
        else:
            lacking = [
                blob.digest for blob in blobs_of(held[1]) if not registry.has_blob(image.mirror_repository, blob)
            ]
            if lacking:
                found[reference] = f"lacks {', '.join(lacking)}"
    return found


def held_blobs(registry: Registry) -> dict[str, str]:
    """Digest -> repository, for every blob of every tagged image that is really there."""
    found: dict[str, str] = {}
    for repository in registry.repositories():
        for tag in registry.tags(repository):
            held = registry.manifest(repository, tag)
            for blob in blobs_of(held[1]) if held else ():
                if blob.digest not in found and registry.has_blob(repository, blob):
                    found[blob.digest] = repository
    return found


def push(registry: Registry, layout: Layout, image: Image, target: ImageReference, held: dict[str, str]) -> int:
    """Put one image of a layout into the registry; returns the bytes that were sent.

    Blobs first, then the manifest: whoever sees the tag can pull all of it. `held` (digest -> repository) tells what
    can be taken over from other repositories, and learns what was sent. Raises RegistryError, LayoutError.
    """
    repository, sent = target.mirror_repository, 0
    for blob in image.blobs[1:]:
        if registry.has_blob(repository, blob):
            held.setdefault(blob.digest, repository)
            continue
        source = held.get(blob.digest)
        if source and source != repository and registry.mount(repository, blob, source):
            continue
        with layout.open(blob_file(blob.digest)) as stream:
            registry.upload(repository, blob, stream)
        held[blob.digest] = repository
        sent += blob.size
    manifest = layout.read(blob_file(image.digest))
    digest = registry.put_manifest(repository, target.tag or image.digest, image.media_type, manifest)
    if digest != image.digest:
        raise RegistryError(f"{target}: stored as {digest} instead of {image.digest}")
    return sent + len(manifest)
