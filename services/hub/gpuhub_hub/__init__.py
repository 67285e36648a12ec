"""What the hub of gpuhub.platform does beyond JupyterHub: sign-up rules, users' folders, sizes of servers and quotas.

The chart's configuration calls `setup(c, settings)` once, with what the role wrote under `custom.gpuhub`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tornado.httpclient import AsyncHTTPClient

__all__ = ["setup"]


def trust_authorities(file: str | None) -> None:
    """Have the hub's own requests, as to a login service, trust the authorities in `file` (PEM), if there is one.

    The chart configures tornado to use curl, which takes them from no environment variable.
    """
    if file:
        AsyncHTTPClient.configure(AsyncHTTPClient.configured_class(), defaults={"ca_certs": file})


def setup(c: Any, settings: Mapping[str, Any]) -> None:
    """Configure JupyterHub.

    `settings` has `auth` (see gpuhub_hub.native.configure), `storage` where users have shared storage, with
    `users_path`, the folder inside the hub's container that holds one folder for each user, and `portal`, `profiles`,
    `sizes` and `homes_on_nodes` where servers have sizes (see gpuhub_hub.sizes.configure).
    Raises ValueError for an authentication mode that this version does not have, so that the hub does not start open.
    """
    from . import native, sizes, spawner, storage

    trust_authorities(os.environ.get("SSL_CERT_FILE"))
    mode = settings["auth"]["mode"]
    if mode != "native":
        raise ValueError(f"custom.gpuhub.auth.mode is '{mode}'; this hub knows: native")
    native.configure(c, settings["auth"])
    spawner.configure(c)
    sizes.configure(c, settings)
    if settings.get("storage"):
        storage.configure(c, settings["storage"]["users_path"])
