"""What the hub of gpuhub.platform does beyond JupyterHub: sign-up rules, administrators, users' folders.

The chart's configuration calls `setup(c, settings)` once, with what the role wrote under `custom.gpuhub`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["setup"]


def setup(c: Any, settings: Mapping[str, Any]) -> None:
    """Configure JupyterHub.

    `settings` has `auth` (see gpuhub_hub.native.configure) and, where users have shared storage, `storage` with
    `users_path`, the folder inside the hub's container that holds one folder for each user.
    Raises ValueError for an authentication mode that this version does not have, so that the hub does not start open.
    """
    from . import native, spawner, storage

    mode = settings["auth"]["mode"]
    if mode != "native":
        raise ValueError(f"custom.gpuhub.auth.mode is '{mode}'; this hub knows: native")
    native.configure(c, settings["auth"])
    spawner.configure(c)
    if settings.get("storage"):
        storage.configure(c, settings["storage"]["users_path"])
