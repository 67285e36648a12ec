"""From an event of the API server to the row that tells of it, committed: p99, in real time, on a cluster at work.

500 notebooks of a minute each, so that eight begin and eight end in a second. The rows' own trigger tells when they are
committed. GPUHUB_BENCH_SECONDS sets for how long.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time

import psycopg
from bench import report
from cluster_load import OURS, PATIENCE, Databases, Load, api_servers, collector, until

SECONDS = int(os.environ.get("GPUHUB_BENCH_SECONDS", "60"))
GOAL_MS = 250
_TRIGGER = """
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('row', CASE WHEN NEW.held_until IS NULL THEN 'begin ' ELSE 'end ' END || NEW.pod_uid);
    RETURN NULL;
END $$;
CREATE TRIGGER tell AFTER INSERT OR UPDATE ON allocation FOR EACH ROW EXECUTE FUNCTION tell();
"""


class Stopwatch:
    """When which event was sent, and how long its row took."""

    def __init__(self) -> None:
        self.open: dict[str, float] = {}
        self.taken: list[float] = []

    def begin(self, event: str) -> None:
        self.open[event] = time.perf_counter()

    async def listen(self, dsn: str) -> None:
        """Take the time of each row that is committed; the first counts."""
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute("LISTEN row")
            async for notice in connection.notifies():
                began = self.open.pop(notice.payload, None)
                if began is not None:
                    self.taken.append(time.perf_counter() - began)


async def measure(databases: Databases) -> list[float]:
    """Seconds that each event took."""
    watch = Stopwatch()
    async with api_servers(1) as (server,):
        load = Load(server, life=60)
        load.scheduled = lambda uid: watch.begin(f"begin {uid}")
        load.finished = lambda uid: watch.begin(f"end {uid}")
        load.fill()
        with collector(server, databases), databases.connect(OURS) as connection:
            await until(connection, "SELECT count(*) FROM allocation", Load.PODS)
            connection.execute(_TRIGGER)
            listener = asyncio.ensure_future(watch.listen(databases.dsn(OURS)))
            await load.live(SECONDS)
            deadline = time.monotonic() + PATIENCE
            while watch.open:
                assert time.monotonic() < deadline, f"no row tells of {list(watch.open)[:5]}"
                await asyncio.sleep(0.1)
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
    return watch.taken


def main() -> None:
    with Databases() as databases:
        taken = asyncio.run(measure(databases))
    p99 = statistics.quantiles(taken, n=100)[98] * 1000
    report(f"event to row, p99 of {len(taken)} (ms), against the most allowed", p99, GOAL_MS, goal=1)


if __name__ == "__main__":
    main()
