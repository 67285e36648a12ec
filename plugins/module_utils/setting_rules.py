"""What the type of a variable does not say about its value. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from . import setting_values as check


def _or_empty(rule: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The rule for a text that may be empty."""
    return lambda value: value if value == "" else rule(value)


def _each(rule: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The rule for every element of a list; the text names the element that breaks it."""

    def check_all(values: Any) -> Any:
        for value in values:
            try:
                rule(value)
            except ValueError as error:
                raise ValueError(f"has {value!r}; it {error}") from error
        return values

    return check_all


RULES: Mapping[str, Callable[[Any], Any]] = {
    "gpuhub_shared_storage_path": _or_empty(check.absolute_path),
    "gpuhub_dns_servers": _each(check.address),
    "gpuhub_http_proxy": _or_empty(check.proxy),
    "gpuhub_https_proxy": _or_empty(check.proxy),
    "gpuhub_no_proxy": _each(check.direct),
    "cluster_addons_namespace": check.label,
    "cluster_addons_dns_address": check.address,
    "cluster_addons_dns_upstreams": _each(check.address),
    "jupyterhub_namespace": check.label,
    "jupyterhub_admin_users": check.users,
    "jupyterhub_singleuser_image": check.image,
    "jupyterhub_http_proxy": _or_empty(check.proxy),
    "jupyterhub_https_proxy": _or_empty(check.proxy),
    "jupyterhub_no_proxy": _each(check.direct),
    "jupyterhub_cpu_limit": _or_empty(check.cores),
    "jupyterhub_cpu_guarantee": _or_empty(check.cores),
    "jupyterhub_memory_limit": _or_empty(check.quantity),
    "jupyterhub_memory_guarantee": _or_empty(check.quantity),
    "jupyterhub_pvc_size": check.quantity,
    "jupyterhub_hub_storage_size": check.quantity,
    "jupyterhub_shared_storage_path": _or_empty(check.absolute_path),
    "jupyterhub_usage_portal_url": _or_empty(check.url),
    "jupyterhub_usage_portal_secret": check.label,
    "microk8s_dns_address": check.address,
    "microk8s_http_proxy": _or_empty(check.proxy),
    "microk8s_https_proxy": _or_empty(check.proxy),
    "microk8s_no_proxy": _each(check.direct),
    "microk8s_pod_cidr": check.network,
    "microk8s_service_cidr": check.network,
    "usage_portal_url": _or_empty(check.url),
    "usage_portal_public_url": check.url,
    "usage_portal_token": _or_empty(check.one_line),
    "offline_images_registry_namespace": check.label,
    "offline_images_site_registry": _or_empty(check.registry),
}

# By how a variable's name ends, where RULES does not have it.
ENDINGS: Mapping[str, Callable[[Any], Any]] = {"_port": check.port}


def fault(variable: str, value: Any) -> str:
    """Why a value of the right type cannot be right; empty if it can."""
    rules = [RULES[variable]] if variable in RULES else [r for end, r in ENDINGS.items() if variable.endswith(end)]
    for rule in rules:
        try:
            rule(value)
        except ValueError as error:
            return str(error)
    return ""
