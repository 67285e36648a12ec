"""Grants of the hub, with a portal over HTTP that is exact, away, late or bare."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
import sample
import spawn_doubles

# Simultaneous starts of a storm, and how many storms; more by variables.
STARTS = int(os.environ.get("GPUHUB_STORM_STARTS") or sample.size(80, 200))
LAG = 0.5
SEEDS = sample.draw(range(int(os.environ.get("GPUHUB_STORM_SEEDS") or 3)), 1)


@pytest.fixture(scope="session")
def modules(archive):
    from gpuhub_core import quota_profiles
    from gpuhub_hub import portal_client, quota

    return portal_client, quota, quota_profiles.settings(spawn_doubles.SIZES)


class Cluster:
    """Pods as far as the portal's double needs them: made when a start was granted, gone when it ended."""

    def __init__(self) -> None:
        self.pods: dict[str, dict] = {}
        self.created: list[dict] = []
        self.making = threading.Lock()
        self.most = Counter()

    def run(self, grant) -> None:
        amounts = grant.profile.request.resources
        pod = {
            "metadata": {
                "name": grant.key,
                "uid": str(uuid.uuid4()),
                "labels": {spawn_doubles.LABEL: grant.label},
                "annotations": {"hub.jupyter.org/username": grant.username, "gpuhub.io/gpu-type": "A100"},
            },
            "spec": {"containers": [{"resources": {"requests": {"nvidia.com/gpu": str(amounts.gpu)}}}]},
            "status": {"phase": "Running"},
        }
        with self.making:
            self.pods[grant.key] = pod
            self.created.append(pod)
        self.most[grant.username] = max(self.most[grant.username], self.gpus(grant.username))
        self.most[""] = max(self.most[""], self.gpus())

    def of(self, username=None) -> list[dict]:
        pods = list(self.pods.values())
        return [pod for pod in pods if username in (None, pod["metadata"]["annotations"]["hub.jupyter.org/username"])]

    def gpus(self, username=None) -> int:
        return sum(
            int(pod["spec"]["containers"][0]["resources"]["requests"]["nvidia.com/gpu"]) for pod in self.of(username)
        )


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def portal(make_portal, cluster):
    return make_portal(cluster)


def make(modules, portal, timeout, **settings):
    """A quota on a portal of the platform; its connection is closed by `with_quota`."""
    portal_client, quota, sizes = modules
    client = portal_client.PortalClient(portal.url, portal.token_file, timeout_seconds=timeout, retry_seconds=0.05)
    source = quota.LimitsSource(client, sizes) if portal.external else quota.PortalSource(client)
    limits = quota.Settings(**{"reuse": 0, "lag": 10, **settings})
    return quota.Quota(source, limits, sizes, None if portal.external else client), client


def with_quota(modules, portal, work, timeout=5, **settings):
    """Run `work(quota)` with the quota's keeper beside it; `timeout`: seconds that an answer may take."""

    async def run():
        quota, client = make(modules, portal, timeout, **settings)
        keeper = asyncio.create_task(quota.keep())
        try:
            # What goes wrong in a task of its own would be waited for.
            return await asyncio.wait_for(work(quota), 120)
        finally:
            keeper.cancel()
            await client.close()

    return asyncio.run(run())


def grant_of(modules, username: str, gpu: int):
    """A grant that this hub has not made."""
    portal_client, quota, _ = modules
    stated = {"slug": "any", "display_name": "any", "cpu_milli": 0, "memory_bytes": 0, "gpu": gpu, "gpu_type": "A100"}
    return quota.Grant(username, "", portal_client.read_profile(stated))


async def refused(modules, work) -> str:
    """The code that a start is refused with."""
    with pytest.raises(modules[1].NotGrantedError) as error:
        await work
    return error.value.reason.code


@pytest.mark.parametrize("seed", SEEDS)
def test_a_storm_while_the_portal_dies_and_comes_back(modules, portal, cluster, seed):
    """Never beyond a limit or what is free, whichever answers were lost; when it is over, whoever has room gets it."""
    chance = random.Random(seed)
    users = [f"user-{number}" for number in range(STARTS // 8)]
    portal.nodes = {"node-1": 2 * len(users) - len(users) // 4}
    modes = ["up", "down", "error", "up", "slow", "behind", "up"]
    # Shorter than the portal may be away.
    portal.seconds = 0.5

    async def start(quota, number: int) -> str:
        await asyncio.sleep(chance.random())
        username = users[number % len(users)]
        try:
            grant = await quota.admit(username, str(number), "gpu-a100-1")
        except modules[1].NotGrantedError as error:
            return error.reason.code
        await asyncio.sleep(chance.random() / 5)
        if chance.random() < 0.1:
            # The start fails before there is a pod.
            quota.ended(grant)
            return "failed"
        cluster.run(grant)
        quota.started(grant)
        if chance.random() < 0.2:
            del cluster.pods[grant.key]
            quota.ended(grant)
            return "ended"
        return "runs"

    async def weather():
        while True:
            mode = chance.choice(modes)
            portal.mode = "up" if mode == "behind" else mode
            if portal.behind != (mode == "behind"):
                portal.catch_up() if portal.behind else portal.fall_behind()
            await asyncio.sleep(chance.random() / 5)

    async def storm(quota):
        for username in users:
            await quota.view(username)
        trouble = asyncio.create_task(weather())
        outcomes = Counter(await asyncio.gather(*(start(quota, number) for number in range(STARTS))))
        trouble.cancel()
        portal.mode = "up"
        if portal.behind:
            portal.catch_up()
        while quota._releases or any(not grant.settled for grant in quota._grants.values()):
            await asyncio.sleep(0.05)
        async with asyncio.timeout(60):
            for username in users:
                while cluster.gpus(username) < 2 and cluster.gpus() < sum(portal.nodes.values()):
                    # On a busy machine it may be away for a moment still.
                    with contextlib.suppress(modules[1].NotGrantedError):
                        cluster.run(await quota.admit(username, str(uuid.uuid4()), "gpu-a100-1"))
        return outcomes

    outcomes = with_quota(modules, portal, storm, timeout=1, lag=LAG)
    assert max(count for name, count in cluster.most.items() if name) == 2, outcomes
    assert cluster.most[""] == sum(portal.nodes.values()), outcomes
    assert outcomes["runs"] and outcomes["over_limit"], outcomes
    assert portal.active() == []


def test_the_last_gpu_is_granted_once(modules, portal, cluster):
    portal.nodes = {"node-1": 1}

    async def race(quota):
        starts = [quota.admit(f"user-{number}", "", "gpu-a100-1") for number in range(20)]
        return await asyncio.gather(*starts, return_exceptions=True)

    outcomes = with_quota(modules, portal, race)
    assert sum(isinstance(one, modules[1].Grant) for one in outcomes) == 1
    assert {one.reason.code for one in outcomes if not isinstance(one, modules[1].Grant)} == {"none_free"}


def test_no_knowledge_is_too_old_and_none_is_invented(modules, portal):
    async def work(quota):
        await quota.view("alice")
        portal.mode = "down"
        assert (await quota.view("alice")).away
        assert await refused(modules, quota.admit("bob", "", "cpu-1-1")) == "away"
        await asyncio.sleep(0.6)
        assert await refused(modules, quota.admit("alice", "", "cpu-1-1")) == "away"
        portal.mode = "up"
        await asyncio.sleep(0.1)
        return await quota.admit("alice", "", "cpu-1-1")

    assert with_quota(modules, portal, work, last_known=0.5).reservation


def test_last_known_use_counts_beside_own_grants(modules, portal, cluster):
    """A job of another producer holds one of two GPUs."""
    cluster.run(grant_of(modules, "alice", 1))

    async def work(quota):
        await quota.view("alice")
        portal.mode = "down"
        await quota.admit("alice", "one", "gpu-a100-1")
        assert await refused(modules, quota.admit("alice", "two", "gpu-a100-1")) == "over_limit"
        # Without GPUs nothing is above the limit.
        await quota.admit("alice", "three", "cpu-1-1")

    with_quota(modules, portal, work)


def test_last_known_free_gpus_are_everybody_s(modules, portal):
    portal.nodes = {"node-1": 2}

    async def work(quota):
        for name in ("alice", "bob", "carol"):
            await quota.view(name)
        portal.mode = "down"
        await quota.admit("alice", "", "gpu-a100-1")
        await quota.admit("bob", "", "gpu-any-1")
        assert await refused(modules, quota.admit("carol", "", "gpu-a100-1")) == "none_free"

    with_quota(modules, portal, work)


def test_a_late_reservation_is_handed_in_before_somebody_else_is_judged(modules, portal):
    """The portal is back and does not know yet what was granted without it."""
    portal.nodes = {"node-1": 1}

    async def work(quota):
        await quota.view("alice")
        quota._portal.retry_seconds = 3600
        portal.mode = "down"
        grant = await quota.admit("alice", "", "gpu-a100-1")
        portal.mode = "up"
        quota._portal._away_until = 0
        assert not portal.active()
        # The portal would grant it: it has heard of nothing.
        assert await refused(modules, quota.admit("bob", "", "gpu-a100-1")) == "none_free"
        return grant

    with_quota(modules, portal, work)


def test_an_answer_that_is_lost_is_no_second_reservation(modules, portal):
    """The portal reserves and its answer does not arrive: the same key finds the same reservation."""
    lost = []

    async def work(quota):
        reserve = quota._portal.reserve

        async def lose(*arguments):
            await reserve(*arguments)
            lost.append(arguments)
            quota._portal.reserve = reserve
            raise modules[0].PortalAwayError("lost")

        quota._portal.reserve = lose
        grant = await quota.admit("alice", "", "gpu-a100-2")
        while not grant.reservation:
            await asyncio.sleep(0.01)
        assert [one["id"] for one in portal.active("alice")] == [grant.reservation]
        quota.ended(grant)
        while portal.active("alice"):
            await asyncio.sleep(0.01)

    with_quota(modules, portal, work)
    assert lost and len(portal.reservations) == 1
    assert [wish.get("granted") for wish in portal.wishes] == [None, True]


def test_a_start_that_is_cancelled_while_it_is_reserved_is_given_back(modules, portal):
    async def work(quota):
        reserve, asked = quota._portal.reserve, asyncio.Event()

        async def slow(*arguments):
            answer = await reserve(*arguments)
            asked.set()
            quota._portal.reserve = reserve
            await asyncio.sleep(60)
            return answer

        quota._portal.reserve = slow
        start = asyncio.create_task(quota.admit("alice", "", "gpu-a100-2"))
        await asked.wait()
        assert portal.active("alice")
        start.cancel()
        while portal.active("alice"):
            await asyncio.sleep(0.01)
        # And what it had can be had again.
        await quota.admit("alice", "", "gpu-a100-2")

    with_quota(modules, portal, work)
    assert not any("granted" in wish for wish in portal.wishes)


def test_ended_twice_is_once(modules, portal):
    async def work(quota):
        grant = await quota.admit("alice", "", "gpu-a100-1")
        quota.ended(grant)
        quota.ended(grant)
        while portal.active():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)

    with_quota(modules, portal, work)
    assert portal.asked("DELETE", "/reservations/") == 1


def test_a_server_that_ran_gives_nothing_back(modules, portal, cluster):
    """Its pod has settled the reservation."""

    async def work(quota):
        grant = await quota.admit("alice", "", "gpu-a100-1")
        cluster.run(grant)
        quota.started(grant)
        await asyncio.sleep(0.1)
        quota.ended(grant)
        await asyncio.sleep(0.1)

    with_quota(modules, portal, work)
    assert portal.asked("DELETE") == 0


def test_a_reservation_that_ran_out_is_handed_in_anew(modules, portal, cluster):
    portal.seconds = 0.3

    async def work(quota):
        reserve, again = quota._portal.reserve, asyncio.Event()

        async def held_up(*arguments):
            await again.wait()
            return await reserve(*arguments)

        grant = await quota.admit("alice", "", "gpu-a100-2")
        quota._portal.reserve = held_up
        portal.reservations[grant.key]["state"] = "expired"
        while grant.reservation:
            await asyncio.sleep(0.01)
        # The portal would grant this.
        assert await refused(modules, quota.admit("alice", "two", "gpu-a100-1")) == "over_limit"
        again.set()
        while not grant.reservation:
            await asyncio.sleep(0.01)
        assert portal.active("alice")
        # And it does not count twice.
        portal.limits["alice"] = 3
        await quota.admit("alice", "two", "gpu-a100-1")

    with_quota(modules, portal, work)


def test_a_reservation_that_the_portal_does_not_know_counts_on(modules, portal, cluster):
    """Its database is another one; the pod is all that it will ever see of this server."""
    portal.seconds = 0.3

    async def work(quota):
        grant = await quota.admit("alice", "", "gpu-a100-2")
        portal.reservations.clear()
        while not grant.refused:
            await asyncio.sleep(0.01)
        assert await refused(modules, quota.admit("alice", "two", "gpu-a100-1")) == "over_limit"
        portal.limits["alice"] = 3
        cluster.run(grant)
        quota.started(grant)
        assert await refused(modules, quota.admit("alice", "two", "gpu-a100-2")) == "over_limit"
        await asyncio.sleep(0.1)
        await quota.admit("alice", "two", "gpu-a100-1")

    with_quota(modules, portal, work, lag=0.05)


def test_what_was_granted_without_the_portal_is_recorded_and_not_judged(modules, portal):
    async def work(quota):
        await quota.view("alice")
        portal.mode = "down"
        grant = await quota.admit("alice", "", "gpu-a100-2")
        portal.limits["alice"] = 0
        portal.mode = "up"
        while not grant.reservation:
            await asyncio.sleep(0.01)
        assert [one["id"] for one in portal.active("alice")] == [grant.key] == [grant.reservation]
        await quota.admit("bob", "", "gpu-a100-1")

    with_quota(modules, portal, work)
    assert {("alice", True), ("bob", None)} <= {(wish["username"], wish.get("granted")) for wish in portal.wishes}
    assert not any(wish["username"] == "alice" and "granted" not in wish for wish in portal.wishes)


def test_a_server_that_runs_before_it_is_handed_in_is_counted_by_its_pod(modules, portal, cluster):
    """The portal has its pod already; the hub must not count both."""

    async def work(quota):
        await quota.view("alice")
        portal.mode = "down"
        grant = await quota.admit("alice", "one", "gpu-a100-1")
        cluster.run(grant)
        quota.started(grant)
        portal.mode = "up"
        while not grant.settled:
            await asyncio.sleep(0.01)
        await quota.admit("alice", "two", "gpu-a100-1")
        assert await refused(modules, quota.admit("alice", "three", "gpu-a100-1")) == "over_limit"

    with_quota(modules, portal, work)


def test_the_node_of_a_home_is_told(modules, portal):
    async def work(quota):
        await quota.view("alice", "node-1")
        await quota.admit("alice", "", "gpu-a100-1", "node-1")
        assert await refused(modules, quota.admit("bob", "", "gpu-a100-1", "node-2")) == "too_large"
        await quota.admit("carol", "", "gpu-a100-1")

    with_quota(modules, portal, work)
    assert portal.home_nodes == ["node-1", "node-1", "node-2", ""]
    assert [wish.get("home_node") for wish in portal.wishes] == ["node-1", None]


def test_a_reservation_that_could_not_be_renewed_in_time_counts_on(modules, portal):
    """The portal was away for longer than it lasts, and is asked by somebody before it is handed in again."""
    portal.seconds = 0.5

    async def work(quota):
        await quota.admit("alice", "one", "gpu-a100-2")
        quota._portal.retry_seconds = 3600
        portal.mode = "down"
        while portal.active():
            await asyncio.sleep(0.05)
        portal.mode, quota._portal._away_until = "up", 0
        assert await refused(modules, quota.admit("alice", "two", "gpu-a100-1")) == "over_limit"

    with_quota(modules, portal, work)


def test_the_keeper_rests(modules, portal):
    """Also while there is a reservation that the portal does not know: nothing is due, and nothing is asked."""
    portal.seconds = 0.6
    rounds = []

    async def work(quota):
        once = quota._keep_once

        async def counted():
            rounds.append(1)
            return await once()

        quota._keep_once = counted
        grant = await quota.admit("alice", "", "gpu-a100-1")
        portal.reservations.clear()
        while not grant.refused:
            await asyncio.sleep(0.01)
        rounds.clear()
        await asyncio.sleep(0.5)

    with_quota(modules, portal, work)
    assert len(rounds) <= 1
    assert portal.asked("PUT") == 1


def test_one_request_that_is_refused_holds_up_no_other(modules, portal):
    async def work(quota):
        for name in ("alice", "bob"):
            await quota.view(name)
        portal.mode = "down"
        grants = [await quota.admit(name, "", "cpu-1-1") for name in ("alice", "bob")]
        portal.refuse = lambda wish: {"code": "invalid"} if wish["username"] == "alice" else None
        portal.mode = "up"
        while not grants[1].reservation:
            await asyncio.sleep(0.01)
        assert grants[0].refused

    with_quota(modules, portal, work)


# ---- a portal whose collector is behind


def test_a_collector_that_is_behind_is_a_portal_that_is_away(modules, portal):
    async def work(quota):
        portal.fall_behind()
        grant = await quota.admit("alice", "one", "gpu-a100-2")
        assert await refused(modules, quota.admit("alice", "two", "gpu-a100-1")) == "over_limit"
        # It answers all else: somebody whom the hub does not know yet is no stranger.
        await quota.admit("bob", "", "cpu-1-1")
        while not grant.reservation:
            await asyncio.sleep(0.01)
        portal.catch_up()

    with_quota(modules, portal, work)


def test_knowledge_of_a_collector_may_be_too_old(modules, portal):
    async def work(quota):
        portal.fall_behind()
        portal.behind_since = {"known_at": (datetime.now(UTC) - timedelta(seconds=61)).isoformat()}
        assert await refused(modules, quota.admit("alice", "", "cpu-1-1")) == "away"
        assert not quota._grants and not quota._releases
        portal.behind_since = {"known_at": (datetime.now(UTC) - timedelta(seconds=50)).isoformat()}
        await quota.admit("alice", "", "cpu-1-1")
        portal.catch_up()

    with_quota(modules, portal, work, last_known=60)


def test_a_server_that_the_collector_does_not_see_stays_reserved(modules, portal, cluster):
    """It runs for longer than its reservation would last."""
    portal.seconds = 0.4

    async def work(quota):
        reserve = quota._portal.reserve

        async def not_of_bob(key, username, *arguments):
            if username == "bob":
                raise modules[0].PortalAwayError("it decides nothing")
            return await reserve(key, username, *arguments)

        # One that cannot be handed in holds up no other.
        quota._portal.reserve = not_of_bob
        await quota.admit("bob", "one", "gpu-a100-2")
        grant = await quota.admit("alice", "one", "gpu-a100-2")
        portal.fall_behind()
        cluster.run(grant)
        quota.started(grant)
        await asyncio.sleep(1)
        assert await refused(modules, quota.admit("alice", "two", "gpu-a100-1")) == "over_limit"
        portal.limits["alice"] = 3
        portal.catch_up()
        while not grant.settled:
            await asyncio.sleep(0.01)
        await quota.admit("alice", "two", "gpu-a100-1")

    with_quota(modules, portal, work)


# ---- a portal that has only the documented endpoints


@pytest.fixture
def external(make_portal):
    return make_portal(external=True)


def test_use_that_lags_is_covered_by_own_reservations(modules, external):
    async def work(quota):
        first = await quota.admit("alice", "one", "gpu-any-1")
        assert not first.reservation
        quota.started(first)
        await quota.admit("alice", "two", "gpu-any-1")
        # The portal still says that nothing is in use.
        assert await refused(modules, quota.admit("alice", "three", "gpu-any-1")) == "over_limit"
        quota.ended(first)
        await quota.admit("alice", "three", "gpu-any-1")

    with_quota(modules, external, work)
    assert {path for _, path in external.requests} == {"/users/alice/limits"}


def test_use_that_the_portal_has_is_not_counted_twice(modules, external):
    async def work(quota):
        grant = await quota.admit("alice", "one", "gpu-any-1")
        quota.started(grant)
        await asyncio.sleep(0.2)
        external.external_use["alice"] = 1
        quota._settings = modules[1].Settings(reuse=0, lag=0.05)
        await asyncio.sleep(1.2)
        await quota.admit("alice", "two", "gpu-any-1")

    with_quota(modules, external, work, lag=0.05)


def test_a_pod_that_is_pending_is_not_in_the_portal_s_use(modules, external):
    async def work(quota):
        await quota.admit("alice", "one", "gpu-any-2")
        await asyncio.sleep(1.2)
        assert await refused(modules, quota.admit("alice", "two", "gpu-any-1")) == "over_limit"

    with_quota(modules, external, work, lag=0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_simultaneous_starts_with_an_external_portal(modules, external, seed):
    """It knows nothing of what is started, at any time."""
    chance, running, most = random.Random(seed), Counter(), Counter()

    async def start(quota, number: int) -> None:
        await asyncio.sleep(chance.random() / 2)
        username = f"user-{number % 10}"
        external.mode = chance.choice(["up", "up", "up", "error", "down"])
        try:
            grant = await quota.admit(username, str(number), "gpu-any-1")
        except modules[1].NotGrantedError:
            return
        running[username] += 1
        most[username] = max(most[username], running[username])
        await asyncio.sleep(chance.random() / 10)
        if chance.random() < 0.5:
            running[username] -= 1
            quota.ended(grant)

    async def storm(quota):
        for number in range(10):
            await quota.view(f"user-{number}")
        await asyncio.gather(*(start(quota, number) for number in range(STARTS)))

    with_quota(modules, external, storm)
    assert most and max(most.values()) == 2


# ---- servers of an earlier hub


def test_pods_of_an_earlier_hub_count(modules, external):
    def pod(phase: str, gpu: int) -> dict:
        cluster = Cluster()
        cluster.run(grant_of(modules, "alice", gpu))
        (found,) = cluster.created
        found["status"]["phase"] = phase
        return found

    async def work(quota):
        pods = [pod("Pending", 1), pod("Succeeded", 8), pod("Running", 1)]
        quota.adopt(pods)
        assert await refused(modules, quota.admit("alice", "four", "gpu-any-1")) == "over_limit"
        quota.adopt(pods[:1])
        grant = await quota.admit("alice", "four", "gpu-any-1")
        # Its own pod is no other one's.
        cluster = Cluster()
        cluster.run(grant)
        quota.adopt([*pods[:1], *cluster.created])
        assert await refused(modules, quota.admit("alice", "five", "gpu-any-1")) == "over_limit"
        quota.adopt(cluster.created)
        await quota.admit("alice", "five", "gpu-any-1")

    with_quota(modules, external, work)


# ---- without a portal


def entry(slug: str, gpu: int = 0) -> dict:
    return {
        "slug": slug,
        "display_name": slug.upper(),
        "kubespawner_override": {"cpu_limit": 1, "extra_resource_limits": {"nvidia.com/gpu": str(gpu)}},
    }


def test_static_profiles(modules):
    _, quota, sizes = modules
    source = quota.StaticSource([entry("cpu"), entry("gpu", 8)], sizes.gpu_resource)

    async def work():
        static = quota.Quota(source, quota.Settings(), sizes)
        view = await static.view("anybody")
        assert [(profile.slug, profile.reason) for profile in view.profiles] == [("cpu", None), ("gpu", None)]
        assert (await static.admit("anybody", "", None)).profile.slug == "cpu"
        grant = await static.admit("anybody", "", "gpu")
        assert static.overrides(grant)["extra_resource_limits"] == {"nvidia.com/gpu": "8"}
        assert await refused(modules, static.admit("anybody", "", "other")) == "no_such_size"
        await static.keep()

    asyncio.run(work())


@pytest.mark.parametrize(
    "wrong", [[], [{}], ["cpu"], [{**entry("a"), "slug": ""}], [{**entry("a"), "kubespawner_override": None}]]
)
def test_static_profiles_that_are_none(modules, wrong):
    with pytest.raises(ValueError, match="no profile"):
        modules[1].StaticSource(wrong, "nvidia.com/gpu")


def test_knowledge_does_not_go_back(modules, portal):
    """A slow answer arrives after a newer one."""

    async def work(quota):
        ask, first = quota._source.account, True

        async def slow(*arguments):
            nonlocal first
            account, late, first = await ask(*arguments), first, False
            if late:
                await asyncio.sleep(0.3)
            return account

        quota._source.account = slow
        late = asyncio.create_task(quota.view("alice"))
        await asyncio.sleep(0.1)
        portal.limits["alice"] = 1
        await quota.view("alice")
        assert (await late).account.limits.gpu == 1
        assert quota._accounts["alice"].limits.gpu == 1

    with_quota(modules, portal, work)


def hold(client, path: str, answer: bool = False) -> tuple[asyncio.Event, asyncio.Event]:
    """Hold the next question of a path, or its answer, on its way; return what is set then, and what lets it go on."""
    ask, there, go_on = client._ask, asyncio.Event(), asyncio.Event()

    async def held(method, asked, *rest):
        if asked != path or there.is_set():
            return await ask(method, asked, *rest)
        answered = await ask(method, asked, *rest) if answer else None
        there.set()
        await go_on.wait()
        return answered or await ask(method, asked, *rest)

    client._ask = held
    return there, go_on


async def is_offered(quota, username: str) -> bool:
    return {profile.slug: profile for profile in (await quota.view(username)).profiles}["gpu-a100-1"].reason is None


DOORS = {
    "start": lambda quota, username: quota.admit(username, "two", "gpu-a100-1"),
    "check": lambda quota, username: quota.check(username, "gpu-a100-1"),
    "form": is_offered,
}


async def overtaken(quota, door: str, username: str, answer: bool = False):
    """What a door says to one whose question, or its answer, is on its way while a start of alice's is recorded."""
    there, go_on = hold(quota._portal, "/users/alice/profiles")
    first = asyncio.create_task(quota.admit("alice", "one", "gpu-a100-1"))
    await there.wait()
    there, late = hold(quota._portal, f"/users/{username}/profiles", answer)
    task = asyncio.create_task(DOORS[door](quota, username))
    await there.wait()
    go_on.set()
    await first
    late.set()
    return await task


@pytest.mark.parametrize("username", ["alice", "bob"])
@pytest.mark.parametrize("door", DOORS)
def test_a_start_recorded_while_an_answer_was_on_its_way_counts_once(modules, portal, door, username):
    """The answer has it already; there is room for both, in alice's limit and of free GPUs."""
    portal.nodes = {"node-1": 2}

    async def work(quota):
        assert await overtaken(quota, door, username)

    with_quota(modules, portal, work)


def test_who_is_above_the_limit_is_looked_at_once_more_and_refused(modules, portal):
    portal.limits["alice"] = 1

    async def work(quota):
        assert await refused(modules, overtaken(quota, "start", "alice", answer=True)) == "over_limit"

    with_quota(modules, portal, work)
    assert len(portal.active()) == 1
    assert portal.asked("GET", "/users/alice/profiles") == 3


def test_a_start_waits_for_one_that_comes_to_nothing(modules, portal):
    """The first of two has the only GPU until the portal refuses it."""
    portal.limits["alice"] = 1
    portal.refuse = lambda wish: {"code": "none_free", "detail": "none"} if len(portal.wishes) == 1 else None

    async def work(quota):
        there, go_on = hold(quota._portal, "/reservations")
        first = asyncio.create_task(quota.admit("alice", "one", "gpu-a100-1"))
        await there.wait()
        known = quota._accounts["alice"]
        second = asyncio.create_task(quota.admit("alice", "two", "gpu-a100-1"))
        while quota._accounts["alice"] is known:
            await asyncio.sleep(0.01)
        assert not second.done()
        go_on.set()
        assert await refused(modules, first) == "none_free"
        assert (await second).reservation

    with_quota(modules, portal, work)
