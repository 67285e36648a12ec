"""Filter that makes JupyterHub's profiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from ansible.errors import AnsibleFilterError

from ..module_utils.quantities import QuantityError
from ..module_utils.quota_profiles import ProfilesError, compute, profile_list


def quota_profiles(settings: Mapping[str, Any], **situation: Any) -> list[dict[str, Any]]:
    """KubeSpawner's `profile_list` of the sizes that are offered; keywords as of `compute` in module_utils."""
    try:
        return profile_list(*compute(settings, **situation))
    except (ProfilesError, QuantityError) as error:
        raise AnsibleFilterError(f"quota_profiles: {error}") from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"quota_profiles": quota_profiles}
