"""Filter that writes containerd's registry configuration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable

from ansible.errors import AnsibleFilterError

from ..module_utils.registry_mirrors import RegistryMirrorsError
from ..module_utils.registry_mirrors import registry_mirrors as render


def registry_mirrors(
    upstreams: Iterable[str],
    registry: str,
    ca: str,
    username: str = "",
    password: str = "",
    images: Iterable[str] = (),
) -> dict[str, str]:
    """Upstream -> text of its hosts.toml."""
    try:
        return render(upstreams, registry, ca, username, password, images)
    except RegistryMirrorsError as error:
        raise AnsibleFilterError(f"registry_mirrors: {error}") from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"registry_mirrors": registry_mirrors}
