"""hosts.toml files that send a node's pulls to the registry on the head, and nowhere else."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable

from .image_reference import ImageReferenceError, parse

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")


class RegistryMirrorsError(ValueError):
    """A host, port or upstream that cannot be used; the message names it."""


def hosts_toml(upstream: str, head: str, port: int, ca: str) -> str:
    """The hosts.toml of one upstream registry.

    containerd asks the hosts in turn and `server` at last. Both are the head's registry, so that there is no way on to
    the internet; `ca` and `override_path` are stated twice because those of a host do not count for `server`.
    """
    url = f"https://{_host(head)}:{_port(port)}/v2/{_upstream(upstream)}"
    settings = f'capabilities = ["pull", "resolve"]\noverride_path = true\nca = {json.dumps(ca)}\n'
    indented = "".join(f"  {line}\n" for line in settings.splitlines())
    head_line = "# Managed by Ansible: gpuhub.platform.offline_images\n"
    return f'{head_line}server = "{url}"\n{settings}\n[host."{url}"]\n{indented}'


def registry_mirrors(upstreams: Iterable[str], head: str, port: int, ca: str) -> dict[str, str]:
    """Upstream -> text of its hosts.toml. Raises RegistryMirrorsError."""
    return {upstream: hosts_toml(upstream, head, port, ca) for upstream in upstreams}


def _host(head: str) -> str:
    try:
        address = ipaddress.ip_address(head)
    except ValueError:
        if _HOST.fullmatch(head) is None:
            raise RegistryMirrorsError(f"{head!r} is neither an address nor a host name of the head") from None
        return head
    return f"[{address}]" if address.version == 6 else str(address)


def _port(port: int) -> int:
    if not 0 < int(port) < 65536:
        raise RegistryMirrorsError(f"{port!r} is not the port of a registry")
    return int(port)


def _upstream(upstream: str) -> str:
    try:
        # In a name of three parts the first can only be a registry.
        reference = parse(f"{upstream}/a/b:c")
        if reference.registry != upstream:
            raise ImageReferenceError(f"{upstream!r} is not the host name of a registry")
        return reference.mirror_repository.partition("/")[0]
    except ImageReferenceError as error:
        raise RegistryMirrorsError(f"upstream {upstream!r}: {error}") from error
