"""A year's page of 200 users, hours and cost of each: by the portal's rollups, against the rows of pods.

The year is brought into the ledger by the ledger's own transactions: notebooks and jobs, half of them shorter than half
an hour, on 64 nodes; rates change once. Totals have to be equal. GPUHUB_BENCH_PODS sets how many pods a user has.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from datetime import UTC, datetime, timedelta

import psycopg
import service_imports  # noqa: F401
from bench import compare
from cluster_load import OURS, Databases
from gpuhub_portal import queries
from gpuhub_portal.database import Database
from gpuhub_portal.ledger import store
from gpuhub_portal.ledger.facts import Pod
from gpuhub_portal.ledger.objects import session_id
from poll_reference import usage
from sqlalchemy import create_engine, make_url

USERS, NODES = 200, 64
PODS = int(os.environ.get("GPUHUB_BENCH_PODS", "1000"))
BEGIN, END = datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
BATCH = 5000
TIMES = 5
_RATES = """
    INSERT INTO rate (valid_from, currency, gpu_hour_micro, cpu_hour_micro, memory_gib_hour_micro, created_by) VALUES
    ('2025-01-01Z', 'EUR', '{"a100": 2500000, "default": 1000000}', 20000, 3000, 'bench'),
    ('2025-07-01Z', 'EUR', '{"a100": 2250000, "default": 1000000}', 20000, 3000, 'bench')
"""


def draw_year() -> list[Pod]:
    """Pods in the order in which they begin."""
    chance = random.Random(5)
    first, last = int(BEGIN.timestamp()), int(END.timestamp())
    pods = []
    for index in range(USERS * PODS):
        since = chance.randrange(first, last)
        until = min(last, since + max(10, min(3 * 86400, round(chance.lognormvariate(7.5, 1.5)))))
        kind, uid, node = chance.choice(("notebook", "job")), f"pod-{index}", chance.randrange(NODES)
        pods.append(
            Pod(
                uid,
                namespace="jhub",
                pod=uid,
                username=f"user-{index % USERS:03}",
                kind=kind,
                servername=uid,
                session_id=session_id(kind, "jhub", uid, uid),
                node=f"node-{node}",
                gpu_type="A100" if node % 2 else "V100",
                gpu=chance.choice((0, 1, 1, 2, 4)),
                cpu_milli=8000,
                memory_bytes=64 * 2**30,
                scheduled_at=since,
                started_at=since,
                finished_at=until,
            )
        )
    return sorted(pods, key=lambda pod: pod.scheduled_at)


async def write(dsn: str, pods: list[Pod]) -> None:
    """Bring pods into the ledger."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(_RATES)
        epoch = await store.become_leader(connection, "bench")
        for first in range(0, len(pods), BATCH):
            batch = {pod.pod_uid: pod for pod in pods[first : first + BATCH]}
            await store.apply(connection, epoch, store.Batch(int(END.timestamp()), batch))
        await connection.execute("VACUUM ANALYZE")


def best(action) -> tuple[float, list[tuple]]:
    """(milliseconds of the fastest of some times, rows)."""
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        rows = action()
        taken.append((time.perf_counter() - began) * 1000)
    return min(taken), [(*row[:5], round(row[5])) for row in rows]


def main() -> None:
    with Databases() as databases:
        began = time.perf_counter()
        pods = draw_year()
        asyncio.run(write(databases.dsn(OURS), pods))
        print(f"{len(pods)} pods written in {timedelta(seconds=round(time.perf_counter() - began))}", flush=True)
        url = databases.sqlalchemy_url(OURS)
        names = ("key", "gpu_seconds", "cpu_milli_seconds", "memory_mib_seconds", "sessions", "cost")

        with asyncio.Runner() as runner, create_engine(url).connect() as raw:
            database = Database(make_url(url))
            context = database.snapshot()
            connection = runner.run(context.__aenter__())
            chosen = queries.UsageFilter("user", BEGIN, END)

            def ours() -> list[tuple]:
                rows = runner.run(queries.usage(connection, chosen, None, USERS))
                return [tuple(row[name] for name in names) for row in rows]

            def reference() -> list[tuple]:
                return [tuple(row) for row in usage.by_user(raw, BEGIN, END)]

            if best(ours)[1] != best(reference)[1]:
                raise SystemExit("the totals of rollups are not those of the rows")
            try:
                compare(
                    f"a year's page of {USERS} users (ms), against the rows of {len(pods)} pods",
                    lambda: best(ours)[0],
                    lambda: best(reference)[0],
                    goal=100,
                )
            finally:
                runner.run(context.__aexit__(None, None, None))
                runner.run(database.close())


if __name__ == "__main__":
    main()
