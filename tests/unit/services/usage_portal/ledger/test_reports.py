"""Use by hour, of what is over and of what is held still."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import service_imports  # noqa: F401
import sqlalchemy as sa
from gpuhub_portal.ledger import reports
from sqlalchemy.ext.asyncio import create_async_engine

NAMES = ("username", "group_name", "kind", "gpu_type")
SUMS = ("gpu_seconds", "cpu_milli_seconds", "memory_mib_seconds", "sessions")


def _at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-03-29T{text}Z")


def _hold(database, uid: str, since: str, until: str | None = None, **columns) -> None:
    row = dict.fromkeys(NAMES, "") | {"pod_uid": uid, "held_from": _at(since), "held_until": until and _at(until)}
    row |= columns
    marks = ", ".join(["%s"] * len(row))

    async def insert(connection) -> None:
        await connection.execute(f"INSERT INTO allocation ({', '.join(row)}) VALUES ({marks})", list(row.values()))

    database.run(insert)


def _usage(database, now: str, time_zone: str = "UTC") -> list[tuple]:
    """Rows (hour, names, sums) in order."""

    async def read(_) -> list[tuple]:
        engine = create_async_engine(database.cluster.url(), connect_args={"options": f"-c timezone={time_zone}"})
        async with engine.connect() as connection:
            columns = reports.usage_by_hour(_at(now)).c
            assert columns.keys() == ["hour", *NAMES, *SUMS]
            rows = (await connection.execute(sa.select(columns))).all()
        await engine.dispose()
        return sorted((row[0].astimezone(UTC).strftime("%H:%M"), *row[1:]) for row in rows)

    return database.run(read)


@pytest.mark.parametrize("time_zone", ["UTC", "Asia/Kolkata"])
def test_what_is_held_still_counts_up_to_now_hour_by_hour(database, time_zone):
    """Hours are those of UTC, wherever the database is."""
    who = {"username": "alice", "group_name": "vision", "kind": "notebook", "gpu_type": "A100"}
    _hold(database, "p", "10:59:50", **who, gpu=2, cpu_milli=1500, memory_bytes=(3 << 20) + 1)
    names = ("alice", "vision", "notebook", "A100")
    assert _usage(database, "12:00:07", time_zone) == [
        ("10:00", *names, 20, 15_000, 40, 0),
        ("11:00", *names, 7200, 5_400_000, 14_400, 0),
        ("12:00", *names, 14, 10_500, 28, 0),
    ]


def test_what_is_over_is_in_the_rollups_alone(database):
    _hold(database, "over", "10:00:00", "10:30:00", gpu=1)
    _hold(database, "later", "11:00:00", gpu=1)
    database.rows("INSERT INTO rollup_hour VALUES ('2026-03-29T10:00Z', 'a', 'g', 'job', 'T4', 1, 2, 3, 4) RETURNING 1")
    assert _usage(database, "10:50:00") == [("10:00", "a", "g", "job", "T4", 1, 2, 3, 4)]
    # An instant before it begins, and one after.
    assert len(_usage(database, "11:00:00")) == 1
    assert _usage(database, "11:00:01")[1] == ("11:00", "", "", "", "", 1, 0, 0, 0)


def test_memory_is_rounded_up_to_whole_mebibytes(database):
    for uid, memory in (("a", 1), ("b", 1 << 20), ("c", (1 << 20) + 1)):
        _hold(database, uid, "10:00:00", username=uid, memory_bytes=memory)
    assert [row[7] for row in _usage(database, "10:00:01")] == [1, 1, 2]
