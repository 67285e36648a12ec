"""Filters about the site's HTTP proxy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Callable

from ansible.errors import AnsibleFilterError

from ..module_utils.proxy import Cluster, ProxyError, endpoints, environment, no_proxy


def proxy_environment(
    proxies: Mapping[str, str],
    hosts: Iterable[str],
    pod_network: str,
    service_network: str,
    domain: str,
    names: Iterable[str] = (),
    extra: Iterable[str] = (),
) -> dict[str, str]:
    """The variables by which programs find the proxies; none where there is none."""
    if not any(proxies.values()):
        return {}
    try:
        direct = no_proxy(hosts, Cluster(pod_network, service_network, domain), names, extra)
        return environment(proxies["http"], proxies["https"], direct)
    except ProxyError as error:
        raise AnsibleFilterError(f"proxy_environment: {error}") from error


def proxy_endpoints(urls: Iterable[str]) -> list[dict[str, Any]]:
    """Host and port of each proxy."""
    try:
        return [{"host": host, "port": port} for host, port in endpoints(urls)]
    except ProxyError as error:
        raise AnsibleFilterError(f"proxy_endpoints: {error}") from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"proxy_environment": proxy_environment, "proxy_endpoints": proxy_endpoints}
