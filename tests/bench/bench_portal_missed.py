"""How many of 10,000 jobs of 10 seconds, of which nothing is left when they have ended, are in the books.

On virtual time, over HTTP and on a PostgreSQL: our collector, whose watch is cut every ten minutes, against a poll
every 30 seconds. GPUHUB_BENCH_JOBS sets their number.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import psycopg
from bench import leave, line_of_none
from cluster_load import OURS, PATIENCE, THEIRS, Databases, api_servers, pod_object
from poll_reference.poller import SECONDS, Poller
from simulator.clock import EPOCH, VirtualClock
from simulator.history import Life, task_factory
from simulator.world import Node, Pod
from sqlalchemy import create_engine

JOBS = int(os.environ.get("GPUHUB_BENCH_JOBS", "10000"))
LENGTH = 10
CUT_SECONDS = 600
_HELD = "extract(epoch FROM {until} - {since})::bigint * gpu"


async def settle(life: Life) -> None:
    """Wait until the collector has nothing left to do at this time."""
    deadline, turns = time.monotonic() + PATIENCE, 0
    while not life.settled:
        life.check_alive()
        assert time.monotonic() < deadline, "the collector does not come to rest"
        turns += 1
        await asyncio.sleep(0 if turns % 8 else 0.0002)


def draw_jobs(chance: random.Random) -> dict[int, list[Pod]]:
    """Jobs by the second in which they begin: one each second on average."""
    jobs: dict[int, list[Pod]] = {}
    for index in range(JOBS):
        at = EPOCH + chance.randrange(JOBS)
        job = Pod(f"job-uid-{index}", f"job-{index}", "job", f"user-{index % 200}", f"job-{index}", 1, 1000, 1024, at)
        job.node, job.scheduled_at, job.started_at, job.phase = "node", at, at, "Running"
        jobs.setdefault(at, []).append(job)
    return jobs


async def play(databases: Databases) -> None:
    """Everything that happens, second by second."""
    asyncio.get_running_loop().set_task_factory(task_factory)
    chance, clock, ending = random.Random(5), VirtualClock(), []
    jobs = draw_jobs(chance)
    engine = create_engine(databases.sqlalchemy_url(THEIRS), pool_size=1)
    async with api_servers(1) as (server,):
        server.put("nodes", Node("node-uid", "node", "A100", 1000, 1000, True, EPOCH - 60, EPOCH - 60).obj())
        # What the simulator's histories give a collector.
        scene = SimpleNamespace(server=server, clock=clock, dsn=databases.dsn(OURS), chance=chance, database_away=False)
        poller, life = Poller(server.url, engine), Life(scene, "collector")
        await settle(life)
        for now in range(EPOCH, EPOCH + JOBS + LENGTH + SECONDS + 1):
            while (due := clock.next_at()) is not None and due <= now:
                clock.advance(due)
                await settle(life)
            clock.advance(now)
            if now % 60 == 0:
                server.bookmark()
            if now % CUT_SECONDS == 0:
                server.cut("pods")
            while ending and ending[0].scheduled_at + LENGTH == now:
                job = ending.pop(0)
                job.finished_at, job.phase = now, "Succeeded"
                server.put("pods", pod_object(job))
                server.delete("pods", job.uid)
            for job in jobs.get(now, ()):
                server.put("pods", pod_object(job))
                ending.append(job)
            await settle(life)
            if now % SECONDS == 0:
                await asyncio.to_thread(poller.poll, datetime.fromtimestamp(now, UTC))
        await life.end()
    engine.dispose()


def outcome(databases: Databases, database: str, table: str, since: str, until: str) -> tuple[int, int]:
    """(jobs without a row, GPU seconds that are wrong) of one side."""
    held = _HELD.format(since=since, until=until)
    with psycopg.connect(databases.dsn(database)) as connection:
        query = f"SELECT count(*), coalesce(sum(abs({held} - {LENGTH})), 0)::bigint FROM {table}"
        rows, wrong = connection.execute(query).fetchone()
    return JOBS - rows, wrong + (JOBS - rows) * LENGTH


def main() -> None:
    # That its watch is cut.
    logging.getLogger("gpuhub_portal.collector").setLevel(logging.ERROR)
    with Databases() as databases:
        asyncio.run(play(databases))
        missed, wrong = outcome(databases, OURS, "allocation", "held_from", "held_until")
        missed_by_poll, wrong_by_poll = outcome(databases, THEIRS, "pod_session", "started_at", "ended_at")
    leave(
        line_of_none(f"jobs of {LENGTH} s missed, of {JOBS}, against a poll", missed, missed_by_poll),
        line_of_none(f"GPU seconds wrong, of {JOBS * LENGTH}, against a poll", wrong, wrong_by_poll),
    )


if __name__ == "__main__":
    main()
