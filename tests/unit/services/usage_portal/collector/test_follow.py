"""List, watch and lease against an API server on loopback."""

from __future__ import annotations

import asyncio
import random

import aiohttp
import pytest
from gpuhub_portal.collector.clock import Clock, Pulse
from gpuhub_portal.collector.follow import LONGEST_PAUSE, Follower, pause
from gpuhub_portal.collector.kube import NODES, OPEN, PODS, ConflictError, KubeApi, session
from gpuhub_portal.collector.lease import Election, LostError
from simulator.api_server import ApiServer
from simulator.clock import VirtualClock

PATIENCE = 10


class _EnoughError(Exception):
    """All that a test had to tell has been told."""


def _ignore(*_) -> None:
    pass


def _pod(uid: str, node: str = "n") -> dict:
    return {"metadata": {"uid": uid, "name": uid}, "spec": {"nodeName": node}}


class _Quick(Clock):
    """No pause is a real one."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0.001)


class _Seen:
    def __init__(self, server: ApiServer, resource=PODS) -> None:
        self.server, self.told, self.contacts = server, [], []
        self.api = KubeApi(session(server.url))
        clock = _Quick()
        self.pulse = Pulse(clock, 600)
        self.follower = Follower(self.api, resource, clock, random.Random(1), self._listed, self._changed, self.pulse)

    def _listed(self, objects, reading) -> None:
        assert reading.listed is True
        self.told.append(("LIST", sorted(obj["metadata"]["uid"] for obj in objects)))

    def _changed(self, kind, obj, reading) -> None:
        self.told.append((kind, obj["metadata"]["uid"], reading.live))
        self.contacts.append(reading.contact)

    async def until(self, condition) -> None:
        async def wait() -> None:
            while not condition():
                assert not self.task.done(), self.task.result()
                await asyncio.sleep(0.001)

        await asyncio.wait_for(wait(), PATIENCE)

    async def following(self) -> None:
        await self.until(lambda: self.follower.following)

    async def __aenter__(self) -> _Seen:
        self.task = asyncio.ensure_future(self.follower.run())
        return self

    async def __aexit__(self, *_) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.api.close()


def _run(scenario, resource=PODS) -> None:
    async def go() -> None:
        async with ApiServer() as server:
            seen = _Seen(server, resource)
            await scenario(server, seen)

    asyncio.run(go())


def test_list_in_pages_then_watch():
    async def scenario(server: ApiServer, seen: _Seen) -> None:
        for index in range(7):
            server.put("pods", _pod(f"p{index}"))
        server.page = 3
        async with seen:
            await seen.following()
            server.put("pods", _pod("late"))
            server.delete("pods", "p0")
            await seen.until(lambda: len(seen.told) == 3)
        assert seen.told == [
            ("LIST", [f"p{index}" for index in range(7)]),
            ("ADDED", "late", True),
            ("DELETED", "p0", True),
        ]

    _run(scenario)


class _Set(_Quick):
    """Its time is set."""

    def __init__(self) -> None:
        self.at = 1000

    def now(self) -> int:
        return self.at


def test_a_process_that_stood_still_is_noticed_once():
    clock = _Set()
    pulse, counts = Pulse(clock, 15), []
    for later, beats in ((20, False), (0, True), (21, False), (0, True), (15, True), (300, True), (1, False)):
        clock.at += later
        if beats:
            pulse.beat()
        counts.append(pulse.standstills)
    assert counts == [0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("beats", [False, True])
def test_what_was_sent_to_a_process_that_stood_still_is_not_of_now(beats):
    """Whether or not it has found out by itself before it reads."""

    async def scenario(server: ApiServer, seen: _Seen) -> None:
        clock = seen.pulse._clock = seen.follower._clock = _Set()
        seen.pulse.beat()
        server.put("pods", _pod("p"))
        async with seen:
            await seen.following()
            clock.at += 1000
            if beats:
                seen.pulse.beat()
            server.delete("pods", "p")
            await seen.until(lambda: len(seen.told) == 2)
            assert (seen.follower.contact, seen.contacts) == (2000, [1000])
            seen.pulse.beat()
            await seen.following()
            server.put("pods", _pod("q"))
            await seen.until(lambda: len(seen.told) == 3)
        assert seen.told == [("LIST", ["p"]), ("DELETED", "p", False), ("ADDED", "q", True)]

    _run(scenario)


def test_a_quiet_watch_follows_and_says_nothing_for_certain():
    async def scenario(server: ApiServer, seen: _Seen) -> None:
        clock = seen.follower._clock = _Set()
        server.put("pods", _pod("p"))
        async with seen:
            await seen.following()
            assert (seen.follower.contact, seen.follower.followed) == (1000, 1000)
            server.version += 1  # Something else has changed meanwhile: no event will tell.
            clock.at = 1001
            server.silent.add("pods")
            server.cut("pods")
            await seen.until(lambda: not seen.follower.following)
            clock.at = 1030
            assert seen.follower.followed == 1000, "nobody watches"
            server.silent.clear()
            await seen.following()
            assert seen.follower.followed == 1000, "what happened before may be under way"
            clock.at = 1032
            assert (seen.follower.contact, seen.follower.followed) == (1000, 1032)
            clock.at = 1090
            assert (seen.follower.contact, seen.follower.followed) == (1000, 1090)
            server.bookmark()
            await seen.until(lambda: seen.follower.contact == 1090)

    _run(scenario)


def test_what_is_old_still_comes_for_a_while():
    class Api:
        async def list(self, resource):
            return [], "10"

        async def version(self, resource):
            return "20"

        async def watch(self, resource, version):
            clock.at = 1010
            yield OPEN, {}
            for number in (15, 20, 21, 22):
                clock.at += 1
                yield "MODIFIED", {"metadata": {"uid": "p", "resourceVersion": str(number)}}
                known.append((follower.contact, follower.followed))
            raise _EnoughError

    clock, known = _Set(), []
    follower = Follower(Api(), PODS, clock, random.Random(1), _ignore, _ignore, Pulse(clock, 600))
    with pytest.raises(_EnoughError):
        asyncio.run(follower.run())
    # With 20 all is known that had happened when the API server said that it is at 20.
    assert known == [(1000, 1000), (1010, 1000), (1013, 1000), (1014, 1014)]


def test_pods_without_a_node_do_not_travel():
    async def scenario(server: ApiServer, seen: _Seen) -> None:
        server.put("pods", _pod("waiting", node=""))
        async with seen:
            await seen.following()
            server.put("pods", _pod("waiting2", node=""))
            server.put("pods", _pod("p"))
            await seen.until(lambda: len(seen.told) == 2)
        assert seen.told == [("LIST", []), ("ADDED", "p", True)]

    _run(scenario)


def test_what_happened_while_the_watch_was_cut_is_not_live():
    async def scenario(server: ApiServer, seen: _Seen) -> None:
        async with seen:
            await seen.following()
            server.up = False
            server.cut("pods")
            await seen.until(lambda: not seen.follower.following)
            server.put("pods", _pod("p"))
            server.delete("pods", "p")
            server.up = True
            await seen.following()
            server.put("pods", _pod("q"))
            await seen.until(lambda: len(seen.told) == 4)
        assert seen.told[1:] == [("ADDED", "p", False), ("DELETED", "p", False), ("ADDED", "q", True)]

    _run(scenario)


@pytest.mark.parametrize("odd", [0, 1], ids=["410 in the stream", "410 as status"])
def test_too_old_means_list_again(odd):
    async def scenario(server: ApiServer, seen: _Seen) -> None:
        server.version += odd
        async with seen:
            await seen.following()
            server.up = False
            server.cut("pods")
            await seen.until(lambda: not seen.follower.following)
            server.put("pods", _pod("p"))
            server.compact()
            server.up = True
            await seen.until(lambda: len(seen.told) == 2)
        assert seen.told == [("LIST", []), ("LIST", ["p"])]

    _run(scenario)


def test_a_server_that_has_been_restored():
    """Its versions are lower than those seen before; a watch from there would be silent for ever."""

    async def scenario(server: ApiServer, seen: _Seen) -> None:
        server.version += 1000
        async with seen:
            await seen.following()
            server.up = False
            server.cut("pods")
            await seen.until(lambda: not seen.follower.following)
            server.version -= 1000
            server.put("pods", _pod("p"))
            server.up = True
            await seen.following()
            server.put("pods", _pod("q"))
            await seen.until(lambda: len(seen.told) == 3)
        assert seen.told == [("LIST", []), ("LIST", ["p"]), ("ADDED", "q", True)]

    _run(scenario)


def test_events_that_come_twice_are_told_once():
    async def scenario(server: ApiServer, seen: _Seen) -> None:
        server.duplicates = True
        async with seen:
            await seen.following()
            server.put("pods", _pod("p"))
            server.put("pods", _pod("p"))
            await seen.until(lambda: seen.follower.version == str(server.version))
        assert seen.told == [("LIST", []), ("ADDED", "p", True), ("MODIFIED", "p", True)]

    _run(scenario)


def test_bookmarks_carry_the_version():
    async def scenario(server: ApiServer, seen: _Seen) -> None:
        async with seen:
            await seen.following()
            server.put("pods", _pod("p"))
            server.bookmark()
            await seen.until(lambda: seen.follower.version == str(server.version))
        assert seen.told == [("LIST", [])], "no node has changed"

    _run(scenario, NODES)


def test_pauses_grow_and_are_never_the_same():
    chance = random.Random(1)
    for failures in range(12):
        drawn = [pause(failures, chance) for _ in range(50)]
        assert max(drawn) <= min(LONGEST_PAUSE, 2**failures)
        assert len(set(drawn)) == 50


class _Scripted:
    """An API server whose watches end as `ends` tell: in order, or with a failure, which may come after an event."""

    def __init__(self, ends: list[str]) -> None:
        self.ends, self.lists, self._version = ends, 0, 0

    async def list(self, resource) -> tuple[list, str]:
        self.lists += 1
        return [], "1"

    async def version(self, resource) -> str:
        return str(self._version or 1)

    async def watch(self, resource, since: str):
        if not self.ends:
            raise _EnoughError
        end = self.ends.pop(0)
        yield OPEN, {}
        if end != "failure":
            self._version = int(since) + 1
            yield "ADDED", {"metadata": {"uid": "p", "resourceVersion": str(self._version)}}
        if end != "in order":
            raise aiohttp.ClientConnectionError(end)


class _Highest:
    def uniform(self, a: float, b: float) -> float:
        return b


class _Noted(_Quick):
    def __init__(self) -> None:
        self.slept = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.mark.parametrize(
    ("ends", "slept"),
    [
        (["in order"] * 3, []),
        # The first has listed, which is progress.
        (["failure"] * 7, [1, 2, 4, 8, 16, 30, 30]),
        (["failure", "failure", "failure", "in order", "failure"], [1, 2, 4, 2]),
        (["failure", "failure", "failure", "failure after an event", "failure"], [1, 2, 4, 1, 2]),
    ],
)
def test_only_failures_in_a_row_make_pauses_longer(ends, slept):
    api, clock = _Scripted(list(ends)), _Noted()
    follower = Follower(api, PODS, clock, _Highest(), _ignore, _ignore, Pulse(clock, 600))
    with pytest.raises(_EnoughError):
        asyncio.run(follower.run())
    assert (clock.slept, api.ends, api.lists) == (slept, [], 1)


def _elections(scenario) -> None:
    async def go() -> None:
        clock = VirtualClock()
        async with ApiServer() as server:
            api = KubeApi(session(server.url))

            def election(holder: str) -> Election:
                return Election(api, clock, random.Random(1), "jhub", "lease", holder, 15)

            await scenario(server, clock, election, api)
            await api.close()

    asyncio.run(go())


def _lease(server: ApiServer) -> dict:
    (lease,) = server.leases.values()
    return lease["spec"]


def test_one_leads_until_its_lease_is_over():
    async def scenario(server, clock, election, api):
        one, two = election("one"), election("two")
        await one.acquire()
        assert not await two._try()
        clock.advance(clock.now() + 14)
        assert not await two._try()
        clock.advance(clock.now() + 2)
        assert await two._try()
        assert not await one._try()
        assert (_lease(server)["holderIdentity"], _lease(server)["leaseTransitions"]) == ("two", 1)

    _elections(scenario)


def test_a_renewed_lease_is_not_taken():
    async def scenario(server, clock, election, api):
        one, two = election("one"), election("two")
        await one.acquire()
        for _ in range(10):
            assert not await two._try()
            clock.advance(clock.now() + 10)
            assert await one._try()

    _elections(scenario)


def test_of_two_at_once_one_wins():
    async def scenario(server, clock, election, api):
        assert sorted(await asyncio.gather(election("one")._try(), election("two")._try())) == [False, True]
        stale = next(iter(server.leases.values()))
        await api.write_lease("jhub", "lease", stale)
        with pytest.raises(ConflictError):
            await api.write_lease("jhub", "lease", {**stale, "metadata": {**stale["metadata"], "resourceVersion": "1"}})

    _elections(scenario)


def test_who_cannot_renew_stops():
    async def scenario(server, clock, election, api):
        one = election("one")
        await one.acquire()
        server.up = False
        keeping = asyncio.ensure_future(one.keep())
        for _ in range(4):
            while clock.next_at() is None and not keeping.done():
                await asyncio.sleep(0.001)
            clock.advance(clock.now() + 5)
        with pytest.raises(LostError):
            await asyncio.wait_for(keeping, PATIENCE)

    _elections(scenario)
