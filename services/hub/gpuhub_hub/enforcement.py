"""Servers that end because a budget is used up: known to their users before, and stopped in order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Mapping
from datetime import datetime, timezone
from typing import Any, Callable

from jupyterhub.apihandlers import APIHandler
from jupyterhub.app import JupyterHub
from tornado import web

from .portal_client import PortalAwayError, PortalClient, PortalRefusedError
from .texts import language_of, say

log = logging.getLogger("jupyterhub.gpuhub")


class Enforcement:
    """Asks the portal every `seconds` which servers end when, and calls `stop(username, servername)` at the time.

    The portal's list is all there is: who is given more time has a later end in the next list, or none. It is asked
    once more before a server is stopped; while it is away its last list counts for `last_known` seconds.
    """

    def __init__(
        self, portal: PortalClient, stop: Callable[[str, str], Awaitable[None]], seconds: float, last_known: float
    ) -> None:
        self._portal, self._stop, self._seconds, self._last_known = portal, stop, seconds, last_known
        self._ends: list[dict[str, Any]] = []
        self._asked_at = 0.0

    def ends_of(self, username: str) -> list[dict[str, Any]]:
        """Which servers of a user end, as in the portal's list."""
        return [end for end in self._ends if end["username"] == username]

    async def run(self) -> None:
        """Watch, for as long as the hub runs."""
        while True:
            await self._ask()
            for end in self._ends:
                if self._due(end) <= 0 and time.monotonic() - self._asked_at <= self._last_known:
                    await self._stop(end["username"], end["servername"])
            coming = [due for due in map(self._due, self._ends) if due > 0]
            await asyncio.sleep(min([self._seconds, *coming]))

    @staticmethod
    def _due(end: dict[str, Any]) -> float:
        return (end["ends_at"] - datetime.now(timezone.utc)).total_seconds()

    async def _ask(self) -> None:
        asked_at = time.monotonic()
        try:
            self._ends, self._asked_at = await self._portal.enforcement(), asked_at
        except (PortalAwayError, PortalRefusedError) as error:
            log.warning("Which servers have to end is not known: %s", error)


async def stop_server(username: str, servername: str) -> None:
    """Stop a server as the hub's own page does, if it runs; one that starts or stops is left to the next time."""
    app = JupyterHub.instance()
    user = app.users.get(username)
    if user is None or servername not in user.spawners or not user.spawners[servername].ready:
        return
    spawner = user.spawners[servername]
    log.warning("The server %s is stopped: its budget is used up", spawner._log_name)
    # Before anything is awaited, as in BaseHandler.stop_single_user, which belongs to a request.
    spawner._stop_pending = True

    async def stop() -> None:
        try:
            await app.proxy.delete_user(user, servername)
            await user.stop(servername)
        except Exception:
            log.exception("The server %s did not stop", spawner._log_name)
        finally:
            spawner._stop_future = None
            spawner._stop_pending = False

    spawner._stop_future = asyncio.ensure_future(stop())


class NoticesHandler(APIHandler):
    """`GET /hub/api/gpuhub/notices`: which of the caller's own servers end, when and why."""

    # Of the whole hub. Not an argument of the route: configuration is copied, with all that is in it.
    enforcement: Enforcement

    async def get(self) -> None:
        """Answer `{notices: [{servername, ends_at, seconds, reason, text}]}`, `text` in the caller's language.

        A server's own token sees that server alone.
        """
        user = self.current_user
        if user is None:
            raise web.HTTPError(403)
        language = language_of(self.request.headers.get("Accept-Language", ""))
        notices = [
            notice(end, language)
            for end in self.enforcement.ends_of(user.name)
            if self.has_scope(f"access:servers!server={user.name}/{end['servername']}")
        ]
        self.finish({"notices": notices})


def notice(end: Mapping[str, Any], language: str) -> dict[str, Any]:
    """Return what a user is told of a server that ends."""
    ends_at = end["ends_at"].astimezone(timezone.utc)
    seconds = max(int((ends_at - datetime.now(timezone.utc)).total_seconds()), 0)
    text = say(
        language,
        "notice",
        server=f" {end['servername']}" if end["servername"] else "",
        minutes=-(-seconds // 60),
        time=f"{ends_at:%H:%M} UTC",
    )
    return {
        "servername": end["servername"],
        "ends_at": ends_at.isoformat(),
        "seconds": seconds,
        "reason": end["reason"],
        "text": text,
    }
