"""python -m simulator [--histories N] [--seed S] [--restarts]: play many histories; the first that is wrong ends it.

Environment: GPUHUB_SEED and GPUHUB_HISTORIES are the defaults. PYTHONPATH needs tests.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence

import service_imports  # noqa: F401 - first
import sqlalchemy as sa
from gpuhub_portal.ledger import tables
from postgres import Cluster
from simulator.api_server import ApiServer
from simulator.history import KINDS, History, Outcome, task_factory


def create_tables(cluster: Cluster) -> None:
    """The schema in a new cluster."""
    engine = sa.create_engine(cluster.url())
    tables.metadata.create_all(engine)
    engine.dispose()


async def play(
    seeds: list[int], cluster: Cluster, restarts: bool = False, disturbances: Sequence[str] | None = None
) -> list[Outcome]:
    """Play histories one after the other, until one is wrong."""
    asyncio.get_running_loop().set_task_factory(task_factory)
    outcomes = []
    async with ApiServer() as server:
        for seed in seeds:
            history = History(seed, server, cluster.dsn(), cluster.restart if restarts else None, disturbances)
            outcomes.append(await history.run())
            if outcomes[-1].problems:
                break
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--histories", type=int, default=int(os.environ.get("GPUHUB_HISTORIES", "100")))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("GPUHUB_SEED") or random.randrange(10**6)))
    parser.add_argument("--restarts", action="store_true", help="restart PostgreSQL itself, too; half a second each")
    parser.add_argument("--disturb", action="append", choices=sorted(set(KINDS)), help="these in each, none drawn")
    parser.add_argument("--verbose", action="store_true", help="what the collector logs")
    arguments = parser.parse_args()
    print(f"GPUHUB_SEED={arguments.seed}", flush=True)
    logging.basicConfig(level=logging.DEBUG if arguments.verbose else logging.CRITICAL)
    if not arguments.verbose:
        # It has a level of its own, and much to say when connections are killed.
        logging.getLogger("psycopg").setLevel(logging.CRITICAL)
    # A run that is ended takes its PostgreSQL with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    began = time.monotonic()
    with Cluster() as cluster:
        create_tables(cluster)
        seeds = list(range(arguments.seed, arguments.seed + arguments.histories))
        outcomes = asyncio.run(play(seeds, cluster, arguments.restarts, arguments.disturb))
    counts = sum((outcome.counts for outcome in outcomes), Counter())
    seconds = time.monotonic() - began
    points = set().union(*(outcome.crash_points for outcome in outcomes))
    print(f"{len(outcomes)} histories, {seconds:.1f} s, {len(outcomes) / seconds:.2f}/s", end=", ")
    print(f"{len(points)} crash points at {len({where for where, _ in points})} waits and statements", end=", ")
    print(f"{time.process_time():.1f} s of CPU here")
    print(dict(sorted(counts.items())))
    for problem in outcomes[-1].problems:
        print(f"seed {outcomes[-1].seed}: {problem}")
    return 1 if outcomes[-1].problems else 0


if __name__ == "__main__":
    sys.exit(main())
