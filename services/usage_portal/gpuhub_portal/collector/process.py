"""The collector as a whole: wait for the lead, begin an epoch, follow the cluster, tell the ledger."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psycopg

from gpuhub_portal.collector.clock import Clock, Pulse
from gpuhub_portal.collector.follow import Follower, pause
from gpuhub_portal.collector.kube import DELETED, NODES, PODS, KubeApi
from gpuhub_portal.collector.lease import Election, LostError
from gpuhub_portal.collector.view import Reading, View
from gpuhub_portal.ledger import store
from gpuhub_portal.ledger.store import Connection, FencedError

_LOG = logging.getLogger(__name__)
# InternalError: the server has ended an idle transaction, or is a replica that does not take writes (class 25).
_AWAY = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError)
Connect = Callable[[], Awaitable[Connection]]


@dataclass(frozen=True)
class Settings:
    """Where the lease is, and how often what.

    tick    seconds after which the streams' state is noted again, and witnesses are looked for, where nothing happens:
            without that the portal takes what it knows for old
    audit   seconds between two comparisons of every node's level with the books
    """

    namespace: str
    holder: str
    lease: str = "usage-portal-collector"
    lease_seconds: float = 30
    tick: float = 15
    audit: float = 300


class Collector:
    """One process. `connect` gives a connection in autocommit mode; it is called again when one breaks."""

    def __init__(
        self,
        api: KubeApi,
        connect: Connect,
        settings: Settings,
        clock: Clock | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self._connect, self._settings = connect, settings
        self._clock, self._chance = clock or Clock(), chance or random.Random()
        self.view = View()
        self._pulse = Pulse(self._clock, settings.tick)
        self.followers = {
            resource.name: Follower(api, resource, self._clock, self._chance, listed, changed, self._pulse)
            for resource, listed, changed in (
                (PODS, self._pods_listed, self._pod_changed),
                (NODES, self._nodes_listed, self._node_changed),
            )
        }
        self._election = Election(
            api, self._clock, self._chance, settings.namespace, settings.lease, settings.holder, settings.lease_seconds
        )
        self._connection: Connection | None = None
        self._epoch = 0
        self._wake = asyncio.Event()
        self._written = self._audited = self._clock.monotonic()
        # For metrics and tests: is it the leader, is it writing, how much has it written, where did the books disagree.
        self.leads = False
        self.writing = False
        self.batches = 0
        self.differences: dict[str, int] = {}

    async def run(self) -> None:
        """Collect for ever, in terms of leadership."""
        try:
            while True:
                await self._election.acquire()
                try:
                    await self._term()
                except (LostError, FencedError) as error:
                    # What has not been written stays known: facts do not become wrong, whoever writes them.
                    _LOG.warning("no longer the leader: %s", error)
                self.leads = False
        finally:
            await self._disconnect()

    async def resign(self) -> None:
        """After `run` has been cancelled: another one need not wait until the lease is over."""
        await self._election.resign()

    async def _term(self) -> None:
        known = await self._with_database(self._begin)
        ahead = [name for name, each in self.followers.items() if each.resume(*known.streams.get(name, ("", 0)))]
        self.view.restart(known, ahead)
        self.leads = True
        self._wake.set()
        self._pulse.beat()
        work = [follower.run() for follower in self.followers.values()]
        tasks = [asyncio.ensure_future(each) for each in (*work, self._write(), self._tick(), self._election.keep())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # The cluster

    def _pods_listed(self, objects: list[dict], reading: Reading) -> None:
        self.view.list_pods(objects, reading)
        self._wake.set()

    def _pod_changed(self, kind: str, obj: dict, reading: Reading) -> None:
        (self.view.remove_pod if kind == DELETED else self.view.see_pod)(obj, reading)
        self._wake_if_urgent()

    def _nodes_listed(self, objects: list[dict], reading: Reading) -> None:
        self.view.list_nodes(objects, reading)
        self._wake.set()

    def _node_changed(self, kind: str, obj: dict, reading: Reading) -> None:
        (self.view.remove_node if kind == DELETED else self.view.see_node)(obj, reading)
        self._wake_if_urgent()

    def _wake_if_urgent(self) -> None:
        if self.view.urgent:
            self._wake.set()

    # The database

    async def _begin(self, connection: Connection) -> store.Known:
        self._epoch = await store.become_leader(connection, self._settings.holder)
        return await store.load(connection)

    async def _tick(self) -> None:
        rest = self._settings.tick
        while True:
            await self._clock.sleep(rest)
            self._pulse.beat()
            rest = self._written + self._settings.tick - self._clock.monotonic()
            if rest <= 0:
                self._wake.set()
                rest = self._settings.tick

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self.writing = True
            applied = await self._with_database(self._apply)
            self._written = self._clock.monotonic()
            self.writing = False
            self.batches += 1
            if applied.differences:
                _LOG.error("books do not balance: idle devices measured less those expected: %s", applied.differences)
                self.differences.update(applied.differences)

    async def _apply(self, connection: Connection) -> store.Applied:
        streams = {
            name: (follower.version, follower.contact, follower.followed)
            for name, follower in self.followers.items()
            if follower.version
        }
        now = self._clock.monotonic()
        audit = now - self._audited >= self._settings.audit
        if not audit and not self.view.news and not await store.note(connection, self._epoch, streams):
            return store.Applied(0, {})
        batch = self.view.take(self._clock.now(), streams, audit)
        try:
            applied = await store.apply(connection, self._epoch, batch)
        except BaseException:
            self.view.give_back(batch)
            raise
        self._audited = now if audit else self._audited
        return applied

    async def _with_database(self, action: Callable[[Connection], Awaitable]):
        """Do it, again and again while the database is away. What is learnt meanwhile joins the next try."""
        failures = 0
        while True:
            try:
                if self._connection is None:
                    self._connection = await self._connect()
                return await action(self._connection)
            except (*_AWAY, OSError) as error:
                failures += 1
                _LOG.warning("database: %s: %s", type(error).__name__, str(error).strip())
                await self._disconnect()
                await self._clock.sleep(pause(failures, self._chance))

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
