"""A registry, ours over a unix socket or a site's own over HTTPS: what it holds, and how images get into it."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

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


class _Login:
    """Proves who we are, by name and password or by the tokens that a registry such as Harbor wants instead.

    Tokens are for one repository and live for minutes: each is asked for when the registry refuses the last one.
    """

    def __init__(self, username: str, password: str, connect: Callable[[str], http.client.HTTPConnection]) -> None:
        credentials = base64.b64encode(f"{username}:{password}".encode()).decode()
        self.username = username
        self._basic = f"Basic {credentials}" if username else ""
        self._connect = connect
        self.header = self._basic

    def renew(self, challenge: str) -> bool:
        """Answer the `WWW-Authenticate` of a refusal; False if there is nothing better than what was sent."""
        scheme, _space, rest = challenge.partition(" ")
        asked = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if scheme.lower() != "bearer" or "realm" not in asked:
            return False
        realm = urlsplit(asked.pop("realm"))
        if realm.scheme != "https":
            raise RegistryError(f"the registry wants a password sent to {realm.geturl()}, which is not HTTPS")
        connection = self._connect(realm.netloc)
        try:
            target = f"{realm.path}?{urlencode({key: asked[key] for key in ('service', 'scope') if key in asked})}"
            connection.request("GET", target, headers={"Authorization": self._basic} if self._basic else {})
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise RegistryError(f"no token from {realm.netloc}: {error or type(error).__name__}") from error
        finally:
            connection.close()
        if response.status != 200:
            return False
        answer = _object(body)
        self.header = f"Bearer {answer.get('token') or answer.get('access_token')}"
        return True


class Registry:
    """The distribution API as far as it is needed here. Repositories lie below `prefix`."""

    def __init__(
        self,
        name: str,
        connection: http.client.HTTPConnection,
        cure: str,
        prefix: str = "",
        login: _Login | None = None,
    ) -> None:
        self.name = name
        self.prefix = f"{prefix}/" if prefix else ""
        self._connection = connection
        self._cure = cure
        self._login = login

    @classmethod
    def at_socket(cls, path: Path, timeout: float = 300) -> Registry:
        """Our own registry, which takes writes on a unix socket of the head."""
        cure = "see 'microk8s kubectl -n gpuhub-system logs deployment/registry -c writer' on the head"
        return cls(str(path), _UnixConnection(path, timeout), cure)

    @classmethod
    def at_url(
        cls, url: str, username: str = "", password: str = "", authorities: str = "", timeout: float = 300
    ) -> Registry:
        """A site's registry at `https://host[:port][/prefix]`; `authorities` (PEM) are trusted besides the system's.

        Raises RegistryError for what is no such URL.
        """
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.query or parts.username:
            raise RegistryError(f"{url!r} is no registry; https://host[:port][/project] is expected")
        try:
            context = ssl.create_default_context()
            if authorities:
                context.load_verify_locations(cadata=authorities)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise RegistryError(f"the authorities given for {url} cannot be used: {error}") from error

        def connect(authority: str) -> http.client.HTTPConnection:
            return http.client.HTTPSConnection(authority, timeout=timeout, context=context, blocksize=_CHUNK)

        login = _Login(username, password, connect)
        cure = "check its name, port, certificate and that the head reaches it"
        return cls(url, connect(parts.netloc), cure, parts.path.strip("/"), login)

    @property
    def shared(self) -> bool:
        """Whether others have their images here too, so that what lies elsewhere in it is not ours to list."""
        return self._login is not None

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()

    def wait(self, seconds: float) -> None:
        """Return once the registry answers. Raises RegistryError after `seconds`, at once if it refuses us."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                answer = self.request("GET", "/v2/")
            except RegistryError as error:
                # Waiting does not make a certificate better.
                if time.monotonic() >= deadline or isinstance(error.__cause__, ssl.SSLCertVerificationError):
                    raise
                time.sleep(0.2)
            else:
                self._refuses(answer, "GET /v2/")
                if answer.status != 200:
                    raise RegistryError(f"{self.name}: GET /v2/ was answered with {answer.status}: not a registry")
                return

    def request(
        self, method: str, url: str, body: bytes | IO[bytes] | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request, again with a fresh token if the registry wants one. A stream is sent only once."""
        answer = self._send(method, url, body, headers)
        refused = answer.status == 401 and self._login is not None and not hasattr(body, "read")
        if refused and self._login.renew(answer.headers.get("www-authenticate", "")):
            return self._send(method, url, body, headers)
        return answer

    def _send(self, method: str, url: str, body: bytes | IO[bytes] | None, headers: Mapping[str, str] | None) -> Answer:
        """A broken connection is opened again once, unless a stream was half sent."""
        sent = dict(headers or {})
        if self._login is not None and self._login.header:
            sent["Authorization"] = self._login.header
        for attempt in (1, 2):
            try:
                self._connection.request(method, url, body=body, headers=sent)
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
                    f"the registry at {self.name} does not answer {method} {url} ({error or type(error).__name__}); "
                    f"{self._cure}"
                ) from error
            return Answer(response.status, {key.lower(): value for key, value in response.getheaders()}, content)
        raise AssertionError("unreachable")

    # -- what it holds

    def manifest(self, repository: str, reference: str) -> tuple[str, bytes] | None:
        """Digest and content of a manifest by tag or digest, None if there is none."""
        answer = self.request("GET", f"/v2/{self._path(repository)}/manifests/{quote(reference)}", headers={
            "Accept": _ACCEPT,
        })  # fmt: skip
        if answer.status == 404:
            return None
        self._expect(answer, (200,), f"manifest {repository}:{reference}")
        return answer.headers.get("docker-content-digest", ""), answer.body

    def has_blob(self, repository: str, blob: Blob) -> bool:
        """Whether a repository has a blob in its full size."""
        answer = self.request("HEAD", f"/v2/{self._path(repository)}/blobs/{blob.digest}")
        if answer.status == 404:
            return False
        self._expect(answer, (200, 307), f"blob {repository}@{blob.digest}")
        # Sent on to an object store: it has the blob, whose size that store would say.
        if answer.status == 307:
            return True
        return answer.headers.get("content-length") == str(blob.size)

    def repositories(self) -> list[str]:
        """All repositories."""
        return self._pages("/v2/_catalog?n=1000", "repositories")

    def tags(self, repository: str) -> list[str]:
        """All tags of a repository."""
        return self._pages(f"/v2/{self._path(repository)}/tags/list", "tags")

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
        origin = quote(self.prefix + source, safe="")
        url = f"/v2/{self._path(repository)}/blobs/uploads/?mount={blob.digest}&from={origin}"
        answer = self.request("POST", url, body=b"")
        if answer.status == 202:  # it began an upload instead
            self.request("DELETE", _request_target(answer.headers.get("location", "")))
            return False
        self._expect(answer, (201,), f"mount {repository}@{blob.digest}")
        return True

    def upload(self, repository: str, blob: Blob, stream: IO[bytes]) -> None:
        """Send a blob; the registry compares its digest. Raises RegistryError."""
        answer = self.request("POST", f"/v2/{self._path(repository)}/blobs/uploads/", body=b"")
        self._expect(answer, (202,), f"upload to {repository}")
        target = _request_target(answer.headers.get("location", ""))
        target += ("&" if "?" in target else "?") + f"digest={quote(blob.digest, safe='')}"
        headers = {"Content-Length": str(blob.size), "Content-Type": "application/octet-stream"}
        answer = self.request("PUT", target, body=stream, headers=headers)
        self._expect(answer, (201,), f"upload of {repository}@{blob.digest}")

    def put_manifest(self, repository: str, reference: str, media_type: str, content: bytes) -> str:
        """Store a manifest under a tag or digest; returns the digest that the registry computed."""
        url = f"/v2/{self._path(repository)}/manifests/{quote(reference)}"
        answer = self.request("PUT", url, body=content, headers={"Content-Type": media_type})
        self._expect(answer, (201,), f"manifest {repository}:{reference}")
        return answer.headers.get("docker-content-digest", "")

    def _path(self, repository: str) -> str:
        return quote(self.prefix + repository, safe="/")

    def _refuses(self, answer: Answer, what: str) -> None:
        if answer.status in (401, 403):
            who = (self._login.username if self._login else "") or "nobody in particular"
            raise RegistryError(
                f"{self.name}: {what}: the registry refuses {who} ({answer.status}); check user name, password and "
                "that this user may pull and push below this address"
            )

    def _expect(self, answer: Answer, statuses: Iterable[int], what: str) -> None:
        if answer.status in statuses:
            return
        self._refuses(answer, what)
        try:
            errors = _object(answer.body).get("errors") or []
            said = "; ".join(f"{error.get('code')}: {error.get('message')}" for error in errors)
        except (RegistryError, AttributeError):
            said = ""
        said = said or answer.body[:200].decode("utf-8", "replace").strip()
        raise RegistryError(f"{self.name}: {what}: the registry answered {answer.status} {said}".rstrip())


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


def held_blobs(registry: Registry, wanted: Mapping[str, tuple[ImageReference, str]]) -> dict[str, str]:
    """Digest -> repository, for every blob of every tagged image that is really there.

    In a registry that is not ours alone only the repositories of the `wanted` images are looked at.
    """
    found: dict[str, str] = {}
    ours = sorted({image.mirror_repository for image, _digest in wanted.values()})
    for repository in ours if registry.shared else registry.repositories():
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
