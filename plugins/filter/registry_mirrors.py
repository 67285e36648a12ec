"""Filter that writes containerd's registry configuration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable

from ansible.errors import AnsibleFilterError

from ..module_utils.registry_mirrors import RegistryMirrorsError
from ..module_utils.registry_mirrors import registry_mirrors as render


def registry_mirrors(upstreams: Iterable[str], *arguments: Any, **options: Any) -> dict[str, str]:
    """Upstream -> text of its hosts.toml; arguments as of the function in module_utils."""
    try:
        return render(upstreams, *arguments, **options)
    except RegistryMirrorsError as error:
        raise AnsibleFilterError(f"registry_mirrors: {error}") from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"registry_mirrors": registry_mirrors}
