"""The lease as Kubernetes' own components write it, and when it is taken, kept and given up."""

from __future__ import annotations

import asyncio
import copy
import time

import aiohttp
import pytest
import service_imports  # noqa: F401
from gpuhub_portal.collector import lease as lease_module
from gpuhub_portal.collector.clock import Clock
from gpuhub_portal.collector.kube import ConflictError
from gpuhub_portal.collector.lease import Election, LostError
from gpuhub_portal.ledger import objects

NOW = 1_790_000_400
STAMP = "2026-09-21T14:20:00.000000Z"


class _Clock(Clock):
    """Time that passes where somebody sleeps; `until` ends that."""

    def __init__(self, until: float = 10**6) -> None:
        self.passed, self.slept, self._until = 0.0, [], until

    def now(self) -> int:
        return NOW + int(self.passed)

    def monotonic(self) -> float:
        return 1000 + self.passed

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.passed += seconds
        if self.passed > self._until:
            raise TimeoutError


class _Chance:
    """Says which range was asked for, and takes its end."""

    def uniform(self, a: float, b: float) -> float:
        assert (a, b) == (1, 1.2)
        return b


class _Api:
    """One lease; `fails` tells of each write whether it does."""

    def __init__(self, lease: dict | None = None, *fails: Exception | None) -> None:
        self.lease, self.fails, self.version, self.reads = lease, list(fails), 0, 0

    async def read_lease(self, namespace: str, name: str) -> dict | None:
        assert (namespace, name) == ("jhub", "leader")
        self.reads += 1
        return copy.deepcopy(self.lease)

    async def write_lease(self, namespace: str, name: str, lease: dict) -> dict:
        assert (namespace, name) == ("jhub", "leader")
        if self.fails and (failure := self.fails.pop(0)):
            raise failure
        # Of none it is a creation.
        if lease["metadata"].get("resourceVersion") != (self.lease and self.lease["metadata"]["resourceVersion"]):
            raise ConflictError(name)
        self.version += 1
        self.lease = copy.deepcopy(lease)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return self.lease


def _spec(holder: str = "me", acquired: str = STAMP, renewed: str = STAMP, transitions: int = 0) -> dict:
    return {
        "holderIdentity": holder,
        "leaseDurationSeconds": 30,
        "acquireTime": acquired,
        "renewTime": renewed,
        "leaseTransitions": transitions,
    }


def _lease(**spec) -> dict:
    return {"metadata": {"name": "leader", "namespace": "jhub", "resourceVersion": "9"}, "spec": spec}


def _election(api: _Api, clock: _Clock, **options) -> Election:
    return Election(api, clock, _Chance(), "jhub", "leader", "me", **options)


def test_the_first_lease():
    api, clock = _Api(), _Clock()
    asyncio.run(_election(api, clock).acquire())
    assert clock.slept == []
    assert api.lease == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "leader", "namespace": "jhub", "resourceVersion": "1"},
        "spec": _spec(),
    }


def test_renewed_in_the_middle_of_its_time():
    api, clock = _Api(), _Clock(until=40)

    async def go() -> None:
        election = _election(api, clock)
        await election.acquire()
        await election.keep()

    with pytest.raises(TimeoutError):
        asyncio.run(go())
    assert clock.slept == [15, 15, 15]
    assert api.lease["spec"] == _spec(renewed="2026-09-21T14:20:30.000000Z")
    assert api.lease["metadata"] == {"name": "leader", "namespace": "jhub", "resourceVersion": "3"}
    assert api.reads == 1, "its holder knows what it wrote"


def test_read_again_where_it_may_be_anothers():
    """That a write has failed says nothing of whether it was done, or who holds the lease."""
    api, clock = _Api(None, None, None, ConflictError("x"), None, None), _Clock(until=40)

    async def go() -> None:
        election = _election(api, clock)
        await election.acquire()
        await election.keep()

    with pytest.raises(TimeoutError):
        asyncio.run(go())
    assert (clock.slept, api.reads) == ([15, 15, 3, 15], 2)


def test_given_up_when_it_cannot_be_renewed():
    """After two thirds, while nobody else may take it yet; until then it is tried more often."""
    gone = [aiohttp.ClientConnectionError("away")] * 9
    lost = [15, 3, 3]
    for fails, slept in (
        ([None, *gone], lost),
        ([None, None, None, *gone], [15, 15, *lost]),
        ([None, *gone[:2], None, *gone], [15, 3, 3, *lost]),
    ):
        api, clock = _Api(None, *fails), _Clock()

        async def go(api=api, clock=clock) -> None:
            election = _election(api, clock)
            await election.acquire()
            await election.keep()

        with pytest.raises(LostError, match=r"^jhub/leader$"):
            asyncio.run(go())
        assert clock.slept == slept


@pytest.mark.parametrize("holder", [None, "", "me"])
def test_one_that_nobody_else_holds_is_taken_at_once(holder):
    api, clock = _Api(_lease(**_spec(holder, acquired="before", transitions=4))), _Clock()
    asyncio.run(_election(api, clock).acquire())
    assert clock.slept == []
    mine = _spec(acquired="before", transitions=4) if holder == "me" else _spec(transitions=5)
    assert api.lease["spec"] == mine


@pytest.mark.parametrize(
    ("stated", "own", "tries"),
    [(15, 15, 3), (30, 15, 6), (None, 15, 3), (None, 30, 3), (12, 15, 3)],
)
def test_anothers_is_taken_when_it_was_not_renewed_for_its_time(stated, own, tries):
    """Its own time counts, by the clock of who waits; tries are a fifth more than a third of the candidate's apart."""
    api, clock = _Api(_lease(**_spec("other") | {"leaseDurationSeconds": stated})), _Clock()
    asyncio.run(_election(api, clock, seconds=own).acquire())
    assert clock.slept == pytest.approx([own / 3 * 1.2] * tries)
    assert api.lease["spec"]["holderIdentity"] == "me"


def test_its_time_has_to_be_over():
    """At the very end of it, it is still another's."""
    api, clock = _Api(_lease(**_spec("other") | {"leaseDurationSeconds": 12})), _Clock()
    asyncio.run(_election(api, clock, seconds=10).acquire())
    assert clock.slept == pytest.approx([4] * 4)


def test_one_that_is_renewed_is_never_taken():
    class Renewed(_Api):
        async def read_lease(self, namespace: str, name: str) -> dict | None:
            self.version += 1
            self.lease["metadata"]["resourceVersion"] = str(self.version)
            return await super().read_lease(namespace, name)

    clock = _Clock(until=1000)
    with pytest.raises(TimeoutError):
        asyncio.run(_election(Renewed(_lease(**_spec("other"))), clock).acquire())


def test_of_two_who_take_it_one_waits():
    api, clock = _Api(None, ConflictError("x"), TimeoutError("x"), ValueError("x")), _Clock()
    asyncio.run(_election(api, clock).acquire())
    assert clock.slept == pytest.approx([12] * 3)


def test_who_ends_in_order_is_not_waited_for():
    api, clock = _Api(), _Clock()

    async def go() -> None:
        election = _election(api, clock)
        await election.resign()
        assert api.lease is None, "it did not lead"
        await election.acquire()
        await election.resign()
        await election.resign()
        assert (api.lease["spec"], api.version) == (_spec(""), 2)
        await Election(api, clock, _Chance(), "jhub", "leader", "other").acquire()
        assert api.lease["spec"] == _spec("other", transitions=1)

    asyncio.run(go())
    assert clock.slept == []


@pytest.mark.parametrize(
    "error", [ConflictError("x"), aiohttp.ClientConnectionError("x"), TimeoutError(), ValueError()]
)
def test_that_a_lease_cannot_be_given_back_does_not_matter(error):
    api = _Api(None, None, error)

    async def go() -> None:
        election = _election(api, _Clock())
        await election.acquire()
        await election.resign()

    asyncio.run(go())
    assert api.lease["spec"] == _spec()


def test_an_api_server_that_does_not_answer_does_not_keep_a_candidate_that_ends(monkeypatch):
    monkeypatch.setattr(lease_module, "_RESIGN_SECONDS", 0.01)
    api = _Api()

    async def go() -> None:
        election = _election(api, _Clock())
        await election.acquire()
        api.write_lease = lambda *_: asyncio.Event().wait()
        await asyncio.wait_for(election.resign(), 10)

    asyncio.run(go())
    assert api.lease["spec"] == _spec()


def test_times_are_utc_wherever_it_runs(monkeypatch):
    api = _Api()
    monkeypatch.setenv("TZ", "Asia/Taipei")
    time.tzset()
    try:
        asyncio.run(_election(api, _Clock()).acquire())
        assert objects.seconds("2026-09-21T14:20:00") == objects.seconds("2026-09-21T14:20:00Z") == NOW
    finally:
        monkeypatch.undo()
        time.tzset()
    assert api.lease["spec"] == _spec()
