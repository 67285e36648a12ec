"""The collector as it is deployed: the machine's clock, HTTP on loopback, PostgreSQL."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager

import psycopg
import pytest
from gpuhub_portal.collector.kube import KubeApi, session
from gpuhub_portal.collector.process import Collector, Settings
from simulator.api_server import ApiServer
from simulator.history import TABLES
from simulator.world import Node, Pod

PATIENCE = 30


def _pod(index: int) -> Pod:
    now = int(time.time())
    pod = Pod(f"p{index}", f"p{index}", "notebook", "alice", "", gpu=1, cpu_milli=1, memory_mib=1, created_at=now)
    pod.node, pod.scheduled_at = "n", now
    return pod


class _Hasty(random.Random):
    """Pauses are short."""

    def uniform(self, a: float, b: float) -> float:
        return 0.01


class _Running:
    """A collector and what it works with; `away` keeps it from the database."""

    def __init__(self, cluster, server: ApiServer) -> None:
        self.cluster, self.server, self.away, self.tries = cluster, server, False, 0
        self.api = KubeApi(session(server.url))
        self.collector = Collector(self.api, self._connect, Settings("jhub", "test"), chance=_Hasty())
        self.task = asyncio.ensure_future(self.collector.run())

    async def _connect(self) -> psycopg.AsyncConnection:
        self.tries += 1
        if self.away:
            raise psycopg.OperationalError("the database is away")
        return await psycopg.AsyncConnection.connect(self.cluster.dsn(), autocommit=True)

    async def until(self, query: str, expected: object) -> None:
        """Wait until a query has an answer."""
        deadline = time.monotonic() + PATIENCE
        async with await psycopg.AsyncConnection.connect(self.cluster.dsn(), autocommit=True) as connection:
            while True:
                assert not self.task.done(), self.task.result()
                answer = (await (await connection.execute(query)).fetchone())[0]
                if answer == expected:
                    return
                assert time.monotonic() < deadline, f"{query}: {answer}, not {expected}"
                await asyncio.sleep(0.005)


@asynccontextmanager
async def _running(cluster):
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        connection.execute(f"TRUNCATE {', '.join(TABLES)}")
    async with ApiServer() as server:
        running = _Running(cluster, server)
        now = int(time.time())
        server.put("nodes", Node("u", "n", "A100", 8, 8, ready=True, ready_since=now - 60, heartbeat=now - 60).obj())
        try:
            yield running
        finally:
            running.task.cancel()
            await asyncio.gather(running.task, return_exceptions=True)
            await running.api.close()


def _end(server: ApiServer, pod: Pod) -> None:
    pod.started_at, pod.finished_at, pod.phase = pod.scheduled_at, pod.scheduled_at + 1, "Succeeded"
    server.put("pods", pod.obj())
    server.delete("pods", pod.uid)


def test_none_is_missed_however_short(cluster):
    async def go() -> None:
        async with _running(cluster) as running:
            await running.until("SELECT count(*) FROM stream", 2)
            for index in range(300):
                pod = _pod(index)
                running.server.put("pods", pod.obj())
                _end(running.server, pod)
                if index % 50 == 0:
                    await asyncio.sleep(0)
            await running.until("SELECT count(*) FROM allocation WHERE held_until = held_from + interval '1 s'", 300)
            assert running.collector.differences == {}

    asyncio.run(go())


def test_the_database_is_away_while_pods_come_and_go(cluster):
    async def go() -> None:
        async with _running(cluster) as running:
            await running.until("SELECT count(*) FROM stream", 2)
            pods = [_pod(index) for index in range(20)]
            for pod in pods[:10]:
                running.server.put("pods", pod.obj())
            await running.until("SELECT count(*) FROM allocation", 10)
            running.away = True
            with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                )
            tries = running.tries
            for pod in pods:
                running.server.put("pods", pod.obj())
                _end(running.server, pod)
            async with asyncio.timeout(PATIENCE):
                while running.tries < tries + 3:
                    await asyncio.sleep(0.005)
            running.away = False
            await running.until("SELECT count(*) FROM allocation WHERE until_source = 'observed'", 20)
            await running.until("SELECT sum(sessions)::int FROM rollup_hour", 20)

    asyncio.run(go())


def test_a_database_without_the_tables_ends_it(cluster):
    """Nothing that waiting would mend: the process ends, and says why."""

    async def go() -> None:
        async with _running(cluster) as running:
            await running.until("SELECT count(*) FROM stream", 2)
            with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
                connection.execute("ALTER TABLE allocation RENAME TO elsewhere")
            try:
                running.server.put("pods", _pod(1).obj())
                with pytest.raises(psycopg.errors.UndefinedTable):
                    await asyncio.wait_for(running.task, PATIENCE)
            finally:
                with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
                    connection.execute("ALTER TABLE elsewhere RENAME TO allocation")

    asyncio.run(go())
