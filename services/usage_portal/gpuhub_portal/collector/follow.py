"""Following one kind of objects: list, watch, and what to do when either breaks."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable

from gpuhub_portal.collector.clock import Clock, Pulse
from gpuhub_portal.collector.kube import BOOKMARK, NETWORK_ERRORS, OPEN, GoneError, KubeApi, Resource
from gpuhub_portal.collector.view import Reading
from gpuhub_portal.ledger.objects import version

_LOG = logging.getLogger(__name__)
LONGEST_PAUSE = 30
# What happened before a watch was opened is sent at once; when nothing of it has come for so long, all of it has.
CAUGHT_UP_SECONDS = 2


class _StoodStillError(Exception):
    """What is read now may have been sent long ago."""


def pause(failures: int, chance: random.Random) -> float:
    """Seconds to wait after so many failures in a row: up to twice as long each time, and never all at once."""
    return chance.uniform(0, min(LONGEST_PAUSE, 2.0**failures))


class Follower:
    """Calls `listed(objects, reading)` and `changed(type, object, reading)`.

    version   the resourceVersion up to which all has been told
    contact   the time up to which it had, for certain: a bound of what is learnt later
    followed  the time up to which it had, unless the watch is dead and nobody has noticed yet
    """

    def __init__(
        self,
        api: KubeApi,
        resource: Resource,
        clock: Clock,
        chance: random.Random,
        listed: Callable[[list[dict], Reading], None],
        changed: Callable[[str, dict, Reading], None],
        pulse: Pulse,
    ) -> None:
        self._api, self._resource, self._clock, self._chance, self._pulse = api, resource, clock, chance, pulse
        self._listed, self._changed = listed, changed
        self.version, self.contact = "", 0
        # Whether a watch is open.
        self.following = False
        self._progress = False
        self._followed, self._behind_at = 0, 0

    @property
    def followed(self) -> int:
        """Advances by itself while a watch is open and quiet: bookmarks come every minute only."""
        now = self._clock.now()
        if self.following and now - self._behind_at >= CAUGHT_UP_SECONDS:
            self._followed = now
        return self._followed

    def resume(self, known: str, contact: int) -> bool:
        """Go on from where the database is, unless this follower is further already. Whether the database was."""
        ahead = version(known) > version(self.version)
        if ahead:
            self.version, self.contact = known, contact
        self.contact = max(self.contact, contact)
        return ahead

    async def run(self) -> None:
        """Follow for ever."""
        failures = 0
        while True:
            self._progress = False
            try:
                if not self.version:
                    await self._list()
                await self._watch()
                if self._progress:
                    # The server has ended the watch in order.
                    failures = 0
                    continue
            except GoneError as error:
                _LOG.info("%s: list again: %s", self._resource.name, error)
                self.version = ""
            except _StoodStillError:
                _LOG.warning("%s: this process has stood still: watch again", self._resource.name)
                continue
            except (*NETWORK_ERRORS, json.JSONDecodeError) as error:
                _LOG.warning("%s: %s: %s", self._resource.name, type(error).__name__, error)
            finally:
                self.following = False
            failures = 0 if self._progress else failures + 1
            await self._clock.sleep(pause(failures, self._chance))

    async def _list(self) -> None:
        asked = self._clock.now()
        objects, listed = await self._api.list(self._resource)
        self._listed(objects, Reading(self._clock.now(), self.contact, listed=True))
        self.version, self.contact, self._followed = listed, asked, asked
        self._progress = True

    async def _watch(self) -> None:
        current, asked, standstills = 0, 0, self._pulse.standstills
        async for kind, obj in self._api.watch(self._resource, self.version):
            if kind == OPEN:
                # What is not newer than this happened while nobody watched; from now on it is told as it happens.
                asked = self._clock.now()
                current = version(await self._api.version(self._resource))
                if current < version(self.version):
                    # The API server's database has been restored or made anew. It would wait for that version.
                    raise GoneError(f"version {self.version} is not there yet, but {current}")
                if current == version(self.version):
                    self.contact = asked
                self.following, self._behind_at = True, self._clock.now()
                continue
            if self._pulse.standstills != standstills:
                # Another watch tells it again, as something that happened while nobody watched.
                raise _StoodStillError
            now, text = self._clock.now(), obj["metadata"]["resourceVersion"]
            number = version(text)
            if kind != BOOKMARK and number > version(self.version):
                live = number > current
                self._behind_at = self._behind_at if live else now
                self._changed(kind, obj, Reading(now, self.contact, live=live))
            self.version = text if number > version(self.version) else self.version
            if number > current or (kind == BOOKMARK and number == current):
                self.contact = now
            elif number == current:
                self.contact = asked
            self._progress = True
