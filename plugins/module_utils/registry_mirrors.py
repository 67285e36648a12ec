"""hosts.toml files that send a node's pulls to one registry, and nowhere else."""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from .image_reference import ImageReferenceError, parse

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_PREFIX = re.compile(r"(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*")


class RegistryMirrorsError(ValueError):
    """A registry or upstream that cannot be used; the message names it."""


def hosts_toml(upstream: str, registry: str, ca: str, username: str = "", password: str = "") -> str:
    """The hosts.toml of one upstream registry, for a registry at `https://host[:port][/prefix]`.

    containerd asks the hosts in turn and `server` at last. Both are the given registry, so that there is no way on to
    the internet; all else is stated twice because settings of a host do not count for `server`. `ca` is a file on the
    node, empty where the system's authorities are enough. With a `username` the text holds the password.
    """
    url = f"{_base(registry)}/{_upstream(upstream)}"
    settings = ['capabilities = ["pull", "resolve"]', "override_path = true"]
    if ca:
        settings.append(f"ca = {json.dumps(ca)}")
    headers = []
    if username:
        credentials = base64.b64encode(f"{username}:{password}".encode()).decode()
        headers = [f'Authorization = ["Basic {credentials}"]']
    lines = ["# Managed by Ansible: gpuhub.platform.offline_images", f'server = "{url}"', *settings]
    lines += ["", *_table("header", headers)] if headers else []
    lines += ["", *_table(f'host."{url}"', settings)]
    lines += ["", *_table(f'host."{url}".header', headers)] if headers else []
    return "\n".join(lines) + "\n"


def _table(name: str, lines: Iterable[str]) -> list[str]:
    return [f"[{name}]", *(f"  {line}" for line in lines)]


def registry_mirrors(
    upstreams: Iterable[str],
    registry: str,
    ca: str,
    username: str = "",
    password: str = "",
    images: Iterable[str] = (),
) -> dict[str, str]:
    """Upstream -> text of its hosts.toml, for `upstreams` and those of the references `images`, in order of name.

    Raises RegistryMirrorsError.
    """
    every = {*upstreams, *(parse(image).registry for image in images)}
    return {upstream: hosts_toml(upstream, registry, ca, username, password) for upstream in sorted(every)}


def _base(registry: str) -> str:
    """`https://host:port/v2/prefix`, without a slash at its end."""
    try:
        parts = urlsplit(registry)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise RegistryMirrorsError(f"registry {registry!r}: {error}") from error
    path = parts.path.rstrip("/")
    if parts.scheme != "https" or parts.query or parts.fragment or "@" in parts.netloc or not _PREFIX.fullmatch(path):
        raise RegistryMirrorsError(f"registry {registry!r}: https://host[:port][/project] is expected")
    if port == 0:
        raise RegistryMirrorsError(f"registry {registry!r}: 0 is no port")
    return f"https://{_host(host)}{f':{port}' if port else ''}/v2{path}"


def _host(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if _HOST.fullmatch(host) is None:
            raise RegistryMirrorsError(f"{host!r} is neither an address nor a host name of a registry") from None
        return host
    return f"[{address}]" if address.version == 6 else str(address)


def _upstream(upstream: str) -> str:
    try:
        # In a name of three parts the first can only be a registry.
        reference = parse(f"{upstream}/a/b:c")
        if reference.registry != upstream:
            raise ImageReferenceError(f"{upstream!r} is not the host name of a registry")
        return reference.mirror_repository.partition("/")[0]
    except ImageReferenceError as error:
        raise RegistryMirrorsError(f"upstream {upstream!r}: {error}") from error
