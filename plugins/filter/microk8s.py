"""Filters about MicroK8s."""

from __future__ import annotations

from typing import Any, Callable

from ansible.errors import AnsibleFilterError

from ..module_utils.microk8s import MicroK8sError, launch_configuration


def microk8s_launch_configuration(arguments: dict[str, Any], **others: Any) -> dict[str, Any]:
    """MicroK8s' launch configuration for arguments by service and further keys."""
    try:
        return launch_configuration(arguments, **others)
    except MicroK8sError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"microk8s_launch_configuration": microk8s_launch_configuration}
