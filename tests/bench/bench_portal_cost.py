"""What it costs to follow a cluster of 500 notebooks: CPU, and bytes that the API server sends.

In real time, six polls long: our collector and a poll every 30 seconds side by side, each with an API server of its own
that tells both the same. CPU is that of the process and of PostgreSQL on its behalf. What a start costs is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bench import leave, line
from cluster_load import OURS, THEIRS, Databases, Load, api_servers, collector, cpu_seconds, poller, until
from poll_reference.poller import SECONDS

POLLS = 6


async def measure(databases: Databases) -> tuple[list[float], list[int]]:
    """CPU seconds and bytes of ours and of the poll."""
    async with api_servers(2) as servers:
        our_server, their_server = servers
        load = Load(*servers, evenly=True)
        load.fill()
        with (
            collector(our_server, databases) as our_process,
            poller(their_server, databases) as their_process,
            databases.connect(OURS) as ours,
            databases.connect(THEIRS) as theirs,
        ):
            await until(ours, "SELECT count(*) FROM allocation", Load.PODS)
            await until(theirs, "SELECT count(*) FROM pod_session", Load.PODS)
            watching = {ours.info.backend_pid, theirs.info.backend_pid}
            processes = [
                [process.pid, *(set(databases.backends(name)) - watching)]
                for process, name in ((our_process, OURS), (their_process, THEIRS))
            ]
            cpu = _since([lambda pids=pids: sum(map(cpu_seconds, pids)) for pids in processes])
            sent = _since([lambda server=server: server.bytes for server in servers])
            await load.live(POLLS * SECONDS)
            return cpu(), sent()


def _since(meters: list[Callable]) -> Callable[[], list]:
    """A function that returns by how much each meter has moved."""
    before = [meter() for meter in meters]
    return lambda: [meter() - then for meter, then in zip(meters, before, strict=True)]


def main() -> None:
    with Databases() as databases:
        cpu, sent = asyncio.run(measure(databases))
    minutes = POLLS * SECONDS / 60
    leave(
        line("CPU for 500 notebooks (s per minute), against a poll", *(each / minutes for each in cpu), goal=200),
        line("sent by the API server for 500 notebooks (MB per minute), against a poll",
             *(each / minutes / 1e6 for each in sent), goal=50),
    )  # fmt: skip


if __name__ == "__main__":
    main()
