"""The site's HTTP proxy as environment variables, and what is reached without it. Pure.

No standard says how programs read these variables, so what is written here is what all of them understand:

- Names: curl and wget read `http_proxy` in lower case only, Go looks for capitals first, Python for lower case. Both
  are set, to the same.
- Networks (`10.1.0.0/16`) are understood by Go (containerd), by Python's requests for IPv4, by curl from 7.86; not by
  Python's urllib and what follows it (aiohttp), not by wget. None looks a name up to see whether its address is in a
  network. So nodes, and the API server's address in the cluster, are listed one by one, by address and by name.
- Domains: with a dot before it a domain is everything below it to all of them. Without one Go, curl and Python take the
  name and everything below it, others the name alone. `*.example.com` is known to few.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from . import setting_values as check

_LOOPBACK = ("localhost", "127.0.0.1", "::1", "127.0.0.0/8")
# What a shell takes as it stands: MicroK8s reads containerd's environment by a shell.
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9._:-]*[a-z0-9_])?")


class ProxyError(ValueError):
    """A proxy, or an exception from it, that cannot be used; the text names the value, without a password."""


class Cluster(NamedTuple):
    """The networks of a cluster, in CIDR notation, and the domain of its DNS."""

    pods: str
    services: str
    domain: str


def no_proxy(hosts: Iterable[str], cluster: Cluster, names: Iterable[str] = (), extra: Iterable[str] = ()) -> list[str]:
    """What is reached without a proxy: each once, in the order in which it is given here.

    Loopback; `hosts`, which are addresses, names, or URLs whose host is meant; the cluster's networks, the address of
    its API server and its domains; `names` of services as pods know them; what the site adds (`extra`: addresses,
    networks, names, domains with a dot before them).

    A host that nobody can be asked for by (an inventory's `gpu node [1]`) is left out. Raises ProxyError.
    """
    try:
        api_server = str(next(ipaddress.ip_network(cluster.services).hosts()))
        additions = [check.direct(entry) for entry in extra]
    except ValueError as error:
        raise ProxyError(f"what is reached without the proxy: {error}") from error
    entries = [
        *_LOOPBACK,
        *filter(_HOST.fullmatch, map(_host, hosts)),
        cluster.pods,
        cluster.services,
        api_server,
        ".svc",
        f".svc.{cluster.domain}",
        f".{cluster.domain}",
        cluster.domain,
        *names,
        *additions,
    ]
    return list(dict.fromkeys(entries))


def environment(http: str, https: str, direct: Iterable[str]) -> dict[str, str]:
    """The variables by which programs find the proxies for `http://` and `https://` addresses; none if both are empty.

    `direct` as from `no_proxy`. Raises ProxyError.
    """
    variables = {}
    for name, url in (("HTTP_PROXY", http), ("HTTPS_PROXY", https)):
        if url:
            variables[name] = _url(name, url)
    if variables:
        variables["NO_PROXY"] = ",".join(direct)
    return {spelling: value for name, value in variables.items() for spelling in (name, name.lower())}


def endpoints(urls: Iterable[str]) -> list[tuple[str, int]]:
    """Host and port of each proxy that is not empty, each once, without user and password. Raises ProxyError."""
    parts = [urlsplit(_url("proxy", url)) for url in urls if url]
    return list(dict.fromkeys((part.hostname or "", part.port or 0) for part in parts))


def _url(name: str, url: str) -> str:
    try:
        return check.proxy(url)
    except ValueError as error:
        raise ProxyError(f"{name} {error}") from error


def _host(text: str) -> str:
    """The host of a URL, or a host as it is; in lower case, an address in its usual form."""
    host = (urlsplit(text).hostname or "" if "://" in text else text).strip("[] ").lower()
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host
