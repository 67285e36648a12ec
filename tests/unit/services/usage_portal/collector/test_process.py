"""What a collector does while it may not lead, or cannot write."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
import service_imports  # noqa: F401
from gpuhub_portal.collector.clock import Clock
from gpuhub_portal.collector.process import Collector, Settings
from gpuhub_portal.ledger import store


class _EnoughError(Exception):
    pass


class _Clock(Clock):
    """Notes pauses; there are `most` of them."""

    def __init__(self, most: int) -> None:
        self.slept: list[float] = []
        self._most = most

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if len(self.slept) == self._most:
            raise _EnoughError


class _Longest:
    def uniform(self, a: float, b: float) -> float:
        return b


class _Api:
    """An API server that has no lease yet and gives it."""

    def __init__(self) -> None:
        self.leases: list[tuple] = []

    async def read_lease(self, namespace: str, name: str) -> None:
        return None

    async def write_lease(self, namespace: str, name: str, lease: dict) -> dict:
        self.leases.append((namespace, name, lease["spec"]["holderIdentity"], lease["spec"]["leaseDurationSeconds"]))
        return lease


@pytest.mark.parametrize(
    "error", [psycopg.OperationalError("x"), psycopg.InterfaceError("x"), psycopg.InternalError("x"), OSError("x")]
)
def test_ever_longer_pauses_while_the_database_is_away(error):
    clock, api, tries = _Clock(6), _Api(), []

    async def connect():
        tries.append(1)
        raise error

    collector = Collector(api, connect, Settings("jhub", "me"), clock, _Longest())
    with pytest.raises(_EnoughError):
        asyncio.run(collector.run())
    assert clock.slept == [2, 4, 8, 16, 30, 30] and len(tries) == 6
    assert api.leases == [("jhub", "usage-portal-collector", "me", 30)]
    assert not collector.leads


def test_what_waiting_does_not_mend_ends_it():
    async def connect():
        raise psycopg.ProgrammingError("no such table")

    collector = Collector(_Api(), connect, Settings("jhub", "me"), _Clock(1), _Longest())
    with pytest.raises(psycopg.ProgrammingError, match="no such table"):
        asyncio.run(collector.run())


def test_nothing_is_noted_sooner_than_a_tick_after_what_was_written():
    class Passing(_Clock):
        passed = 0.0

        def monotonic(self) -> float:
            return self.passed

        async def sleep(self, seconds: float) -> None:
            self.passed += seconds
            await super().sleep(seconds)
            if len(self.slept) == 1:
                collector._written = 10  # while it slept
            woken.append(collector._wake.is_set())

    async def go() -> None:
        nonlocal collector
        collector = Collector(_Api(), None, Settings("jhub", "me"), clock, _Longest())
        await collector._tick()

    collector, clock, woken = None, Passing(4), []
    with pytest.raises(_EnoughError):
        asyncio.run(go())
    assert (clock.slept, woken) == ([15, 10, 15, 15], [False, False, True])


def test_a_new_term_knows_what_another_has_followed_further(monkeypatch):
    class Connection:
        async def close(self) -> None:
            pass

    async def connect() -> Connection:
        return Connection()

    async def become_leader(*_) -> int:
        return 2

    async def load(_) -> store.Known:
        return store.Known([], [], {"pods": ("9", 5), "nodes": ("7", 5)})

    def restart(known: store.Known, ahead: list[str]) -> None:
        told.append((known.streams["pods"], ahead))
        raise _EnoughError

    told = []
    monkeypatch.setattr(store, "become_leader", become_leader)
    monkeypatch.setattr(store, "load", load)
    collector = Collector(_Api(), connect, Settings("jhub", "me"), _Clock(1), _Longest())
    collector.followers["pods"].version, collector.followers["nodes"].version = "8", "7"
    collector.view.restart = restart
    with pytest.raises(_EnoughError):
        asyncio.run(collector.run())
    assert told == [(("9", 5), ["pods"])]


def test_books_are_audited_every_five_minutes_and_witnesses_applied_at_once(monkeypatch):
    class Set(_Clock):
        at = 0.0

        def monotonic(self) -> float:
            return self.at

    async def note(connection, epoch: int, streams: dict) -> bool:
        assert (connection, epoch, streams) == (None, 0, {})
        return waiting[-1]

    async def apply(*_) -> store.Applied:
        return store.Applied(0, {})

    async def go() -> None:
        collector = Collector(None, None, Settings("jhub", "me"), clock, _Longest())
        taken, take = [], collector.view.take
        monkeypatch.setattr(
            collector.view, "take", lambda now, streams, audit: taken.append(audit) or take(now, streams, audit)
        )
        for at, witnesses, expected in (
            (0, False, []),
            (0, True, [False]),
            (299, False, []),
            (299, True, [False]),
            (300, False, [True]),
            (301, False, []),
            (599, True, [False]),
            (600, True, [True]),
        ):
            clock.at = at
            waiting.append(witnesses)
            await collector._apply(None)
            assert taken == expected, at
            taken.clear()

    clock, waiting = Set(1), []
    monkeypatch.setattr(store, "note", note)
    monkeypatch.setattr(store, "apply", apply)
    asyncio.run(go())
