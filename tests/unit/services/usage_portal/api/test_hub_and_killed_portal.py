"""A hub that starts servers while the portal is killed and started again, both as they are deployed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections import Counter

import pytest
import sample

SEEDS = sample.draw(range(20), 1)
# So many in so many seconds, in which the portal is killed so often.
STARTS, SECONDS, KILLS = sample.size((96, 3, 2), (200, 6, 4))
LIMIT = 2
USERS = [f"user-{number}" for number in range(STARTS // 8)]
# Not enough for everybody.
GPUS = LIMIT * len(USERS) - 7


class Cluster:
    """Pods as a collector would see them at once, and the most GPUs that anybody had at a time, and all ("")."""

    def __init__(self, ledger) -> None:
        self._ledger = ledger
        self.held, self.most = Counter(), Counter()

    def run(self, grant) -> None:
        amounts = grant.profile.request.resources
        columns = {"cpu_milli": amounts.cpu_milli, "memory_bytes": amounts.memory_bytes, "gpu": amounts.gpu}
        self._ledger.pod(
            grant.key, grant.username, reservation=grant.label, node="n0", gpu_type="A100", kind="notebook", **columns
        )
        for name in (grant.username, ""):
            self.held[name] += amounts.gpu
            self.most[name] = max(self.most[name], self.held[name])

    def end(self, grant) -> None:
        self._ledger.sql("UPDATE allocation SET held_until = now() WHERE pod_uid = %s", grant.key)
        for name in (grant.username, ""):
            self.held[name] -= grant.profile.request.resources.gpu


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_granted_beyond_a_limit(make_portal, database, ledger, seed):
    """Whichever answers were lost; and when it is over, whoever has room gets it."""
    from gpuhub_core import quota_profiles
    from gpuhub_hub import portal_client, quota

    chance = random.Random(seed)
    portal = make_portal(database, reservation_seconds=5).start()
    ledger.node("n0", GPUS)
    with portal.client() as admin:
        limits = {"cpu": "unlimited", "memory": "unlimited", "gpu": LIMIT}
        assert admin.put("/policy/default", json=limits).status_code == 200
    cluster = Cluster(ledger)
    client = portal_client.PortalClient(portal.url, str(portal._token_file), timeout_seconds=5, retry_seconds=0.2)
    kept = quota.Quota(
        quota.PortalSource(client), quota.Settings(reuse=0, lag=0.5), quota_profiles.settings({}), client
    )

    async def start(number: int) -> str:
        await asyncio.sleep(SECONDS * chance.random())
        try:
            grant = await kept.admit(USERS[number % len(USERS)], str(number), "gpu-a100-1")
        except quota.NotGrantedError as error:
            return error.reason.code
        await asyncio.sleep(chance.random() / 5)
        if chance.random() < 0.1:
            # The start fails before there is a pod.
            kept.ended(grant)
            return "failed"
        cluster.run(grant)
        kept.started(grant)
        await asyncio.sleep(chance.random())
        if chance.random() < 0.3:
            cluster.end(grant)
            kept.ended(grant)
            return "ended"
        return "runs"

    async def trouble() -> None:
        for _ in range(KILLS):
            await asyncio.sleep(chance.random() / 2)
            portal.process.kill()
            await asyncio.to_thread(portal.process.wait)
            await asyncio.sleep(chance.random() / 2)
            await asyncio.to_thread(portal.start)

    async def storm() -> Counter:
        for username in USERS:
            await kept.view(username)
        keeper = asyncio.create_task(kept.keep())
        outcomes, _ = await asyncio.gather(asyncio.gather(*map(start, range(STARTS))), trouble())
        async with asyncio.timeout(60):
            while kept._releases or any(not grant.settled for grant in kept._grants.values()):
                await asyncio.sleep(0.05)
            for username in USERS:
                while cluster.held[username] < LIMIT and cluster.held[""] < GPUS:
                    with contextlib.suppress(quota.NotGrantedError):
                        cluster.run(await kept.admit(username, str(uuid.uuid4()), "gpu-a100-1"))
        keeper.cancel()
        await client.close()
        return Counter(outcomes)

    try:
        outcomes = asyncio.run(storm())
    finally:
        portal.stop()
    assert max(most for name, most in cluster.most.items() if name) == LIMIT, outcomes
    assert cluster.most[""] == GPUS, outcomes
    assert outcomes["runs"] and outcomes["over_limit"], outcomes
    of_no_pod = "NOT EXISTS (SELECT FROM allocation WHERE allocation.reservation = reservation.id::text)"
    lost = f"SELECT count(*) FROM reservation WHERE state = 'active' AND expires_at > now() AND {of_no_pod}"
    assert ledger.sql(lost) == [(0,)]
    print(f"seed {seed}: {dict(outcomes)}")
