"""Puts together what servers' sizes need, by the installation's settings."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any, Callable

from gpuhub_core import quota_profiles

from .enforcement import Enforcement, NoticesHandler, stop_server
from .portal_client import PortalClient
from .quota import LimitsSource, PortalSource, Quota, Settings, StaticSource
from .spawner import PlatformSpawner
from .witness import Witness

log = logging.getLogger("jupyterhub.gpuhub")

# Beside the hub's own database, on the same volume.
STATE_FILE = "/srv/jupyterhub/gpuhub.sqlite"
_ENFORCEMENT_SECONDS = 30
_AGAIN_SECONDS = 5
_running: set[asyncio.Task] = set()


def configure(c: Any, settings: Mapping[str, Any]) -> None:
    """Have servers' sizes granted, if there is a portal or a list of profiles.

    `portal`: `url`, `token_file` (read again when it changes), and if they differ from the defaults `external` (it has
    only the documented endpoints), `timeout_seconds`, `retry_seconds`, `reuse_seconds`, `last_known_seconds`,
    `lag_seconds` (see quota.Settings), `enforcement_seconds`, `state_file`.
    `profiles`: without a portal, KubeSpawner's `profile_list`, as the filter quota_profiles returns it.
    `sizes`: settings of gpuhub_core.quota_profiles.
    `homes_on_nodes`: whether each home is on the disk of one node.

    Raises ValueError for settings that no sizes can be made of, so that the hub does not start without limits.
    """
    portal, stated = settings.get("portal"), settings.get("profiles")
    sizes = quota_profiles.settings(settings.get("sizes") or {})
    PlatformSpawner.homes_on_nodes = bool(settings.get("homes_on_nodes"))
    if portal:
        _with_portal(c, portal, sizes)
    elif stated is not None:
        try:
            source = StaticSource(stated, sizes.gpu_resource)
        except (TypeError, ValueError) as error:
            raise ValueError(f"custom.gpuhub.profiles: {error}") from error
        PlatformSpawner.quota = Quota(source, Settings(), sizes)


def _with_portal(c: Any, portal: Mapping[str, Any], sizes: quota_profiles.Settings) -> None:
    def given(*names: str) -> dict[str, Any]:
        return {name: portal[f"{name}_seconds"] for name in names if f"{name}_seconds" in portal}

    external = bool(portal.get("external"))
    waits = {f"{name}_seconds": value for name, value in given("timeout", "retry").items()}
    client = PortalClient(portal["url"], portal["token_file"], **waits)
    # An external portal looks at pods from time to time; every 30 s in installations that there are.
    limits = Settings(**{"lag": 90 if external else Settings.lag, **given("reuse", "last_known", "lag")})
    if external:
        PlatformSpawner.quota = Quota(LimitsSource(client, sizes), limits, sizes)
        return
    quota = PlatformSpawner.quota = Quota(PortalSource(client), limits, sizes, client)
    witness = PlatformSpawner.witness = Witness(client, Path(portal.get("state_file", STATE_FILE)))
    every = portal.get("enforcement_seconds", _ENFORCEMENT_SECONDS)
    enforcement = NoticesHandler.enforcement = Enforcement(client, stop_server, every, limits.last_known)
    c.JupyterHub.extra_handlers.append((r"/api/gpuhub/notices", NoticesHandler))
    for job in (quota.keep, witness.tell, enforcement.run):
        _in_background(job)


def _in_background(job: Callable[[], Awaitable[None]]) -> None:
    """Run a job beside the hub until it ends. JupyterHub reads its configuration within its loop, and cancels tasks."""

    async def forever() -> None:
        while True:
            try:
                await job()
                return
            except Exception:
                log.exception("%s failed, and begins again", job.__qualname__)
                await asyncio.sleep(_AGAIN_SECONDS)

    try:
        task = asyncio.get_running_loop().create_task(forever())
    except RuntimeError:
        # No hub: somebody looks at the configuration, as jupyterhub --help-all does.
        return
    _running.add(task)
    task.add_done_callback(_running.discard)
