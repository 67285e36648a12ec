"""`GET /users/{username}/limits` for 200 users who have 500 pods: time for each request of 32 clients at once.

Ours is one process of the portal, the reference one process with a synchronous endpoint, both under uvicorn.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import httpx
from bench import leave, line
from cluster_load import OURS, PYTHON_PATH, THEIRS, Databases, child, cpu_seconds
from poll_reference.models import PodSession, UserLimit
from portals import ADMIN_TOKEN, Ledger, Portal, free_port, wait_for
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

USERS, PODS, CLIENTS, ROUNDS = 200, 500, 32, 3
LIMITS = {"cpu_cores": 64, "memory_gib": 256, "gpu": 8}


def fill(databases: Databases) -> None:
    """The same pods and limits on both sides."""
    with databases.connect(OURS) as connection:
        ledger = Ledger(connection)
        for index in range(PODS):
            amounts = {"gpu": 1, "cpu_milli": 8000, "memory_bytes": 64 * 2**30, "kind": "notebook"}
            ledger.pod(f"pod-{index}", f"user-{index % USERS}", scheduled_at="2026-01-01T00:00:00Z", **amounts)
        connection.execute("ANALYZE")
    engine = create_engine(databases.sqlalchemy_url(THEIRS))
    with Session(engine) as session:
        session.add_all(UserLimit(username=f"user-{index}", **LIMITS) for index in range(USERS))
        names = {"namespace": "jhub", "node": "node", "gpu_type": "A100"}
        amounts = {"gpu": 1, "cpu_cores": 8, "memory_bytes": 64 * 2**30}
        times = dict.fromkeys(("started_at", "last_seen_at"), "2026-01-01T00:00:00Z")
        for index in range(PODS):
            who = {"pod_uid": f"pod-{index}", "pod": f"pod-{index}", "username": f"user-{index % USERS}"}
            session.add(PodSession(**who, **names, **amounts, **times))
        session.commit()
    with databases.connect(THEIRS) as connection:
        connection.execute("ANALYZE")
    engine.dispose()


async def _client(url: str, requests: range) -> None:
    """Send one request after the other on one connection. A library would cost more than the server does."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    for index in requests:
        writer.write(
            f"GET /users/user-{index % USERS}/limits HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Authorization: Bearer {ADMIN_TOKEN}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
    writer.close()


def milliseconds(url: str, requests: int, processes: list[int]) -> tuple[float, float]:
    """Time, and CPU time of these processes, for each request."""

    async def all_clients() -> None:
        await asyncio.gather(*(_client(url, range(first, requests, CLIENTS)) for first in range(CLIENTS)))

    began, used = time.perf_counter(), sum(map(cpu_seconds, processes))
    asyncio.run(all_clients())
    taken = time.perf_counter() - began, sum(map(cpu_seconds, processes)) - used
    return taken[0] / requests * 1000, taken[1] / requests * 1000


def main() -> None:
    with TemporaryDirectory() as folder, Databases() as databases:
        fill(databases)
        portal = Portal(Path(folder), PYTHON_PATH, databases.url(OURS), cache_seconds=1)
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        options = ("--port", str(port), "--log-level", "warning", "--no-access-log")
        settings = {"POLL_DATABASE_URL": databases.sqlalchemy_url(THEIRS), "POLL_TOKEN": ADMIN_TOKEN}
        try:
            portal.start()
            program = ("-m", "uvicorn", "poll_reference.limits:app", *options)
            with portal.client() as client, child(*program, **settings) as theirs:
                limits = {"cpu": LIMITS["cpu_cores"], "memory": f"{LIMITS['memory_gib']}Gi", "gpu": LIMITS["gpu"]}
                client.put("/policy/default", json=limits).raise_for_status()
                wait_for("the reference answers", lambda: _answers(address))
                time.sleep(1)  # as stale as our answers may be
                for user in range(USERS):
                    path = f"/users/user-{user}/limits"
                    expected = httpx.get(address + path, headers=client.headers).json()
                    assert client.get(path).json() == expected, expected
                # Connections to the database are there before anything is measured.
                milliseconds(address, CLIENTS * 10, [])
                sides = [
                    (portal.url, 12_800, [portal.process.pid, *databases.backends(OURS)]),
                    (address, 1_600, [theirs.pid, *databases.backends(THEIRS)]),
                ]
                pairs = [[milliseconds(*side) for side in sides] for _round in range(ROUNDS)]
                name = "GET /users/{username}/limits, %s, against a synchronous endpoint"
                met = [
                    line(name % what, *(min(pair[side][index] for pair in pairs) for side in (0, 1)), goal=10)
                    for index, what in enumerate(("ms for each", "ms of CPU for each, of server and database"))
                ]
        finally:
            portal.stop()
    leave(*met)


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/openapi.json").status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
