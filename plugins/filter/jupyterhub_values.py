"""Filters that prepare the deployment of JupyterHub."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

from ansible.errors import AnsibleFilterError

from ..module_utils import core_archive
from ..module_utils.jupyterhub_values import ValuesError, build


def jupyterhub_values(settings: Mapping[str, Any], secrets: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of JupyterHub's chart."""
    try:
        return build(settings, secrets)
    except KeyError as error:
        raise AnsibleFilterError(f"jupyterhub_values: {error} is missing from the settings or the secrets") from error
    except ValuesError as error:
        raise AnsibleFilterError(f"jupyterhub_values: {error}") from error


def core_archive_of(collection: str) -> dict[str, str]:
    """Return the archive with the hub's Python of the collection in a folder."""
    try:
        archive = core_archive.pack(core_archive.members(Path(collection)))
    except core_archive.CoreArchiveError as error:
        raise AnsibleFilterError(f"core_archive: {error}") from error
    return {
        "name": core_archive.FILE_NAME,
        "content": base64.b64encode(archive).decode("ascii"),
        "checksum": core_archive.checksum(archive),
    }


def local_file(path: str) -> dict[str, str]:
    """Return a file of the control node."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise AnsibleFilterError(f"local_file: {error}") from error
    return {"content": base64.b64encode(content).decode("ascii"), "checksum": hashlib.sha256(content).hexdigest()}


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file."""
        return {"jupyterhub_values": jupyterhub_values, "core_archive": core_archive_of, "local_file": local_file}
