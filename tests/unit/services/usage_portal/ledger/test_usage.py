"""What was used in any time, from quarters, months, days, hours and open intervals, against every interval itself."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
import sample
import service_imports  # noqa: F401
from gpuhub_portal import queries
from gpuhub_portal.ledger import periods, store
from gpuhub_portal.ledger.facts import Pod
from gpuhub_portal.ledger.objects import session_id
from psycopg.types.json import Jsonb
from sqlalchemy.ext.asyncio import create_async_engine

HOUR, DAY = 3600, 86_400
# In the past, so that what is open goes on beyond the end of each time.
FIRST, LAST = (int(datetime(2026, month, 1, tzinfo=UTC).timestamp()) for month in (1, 8))
# From when on which price an hour of a GPU has, in micro-units; before the first nothing has one.
RATES = {
    datetime(2026, 3, 3, 5, tzinfo=UTC): {"a100": 2_500_000, "default": 1_000_000},
    datetime(2026, 6, 1, tzinfo=UTC): {"default": 700_001},
}
CPU_PRICE, MEMORY_PRICE = 20_003, 3_001


def _pods(chance: random.Random) -> list[Pod]:
    """Notebooks and jobs of minutes to months, some of which hold still."""
    pods = []
    for index in range(50):
        since = chance.randrange(FIRST, LAST)
        until = since + 1 + round(chance.choice((600, HOUR, DAY, 10 * DAY, 60 * DAY)) * chance.random())
        kind, uid = chance.choice(("notebook", "job")), f"p{index}"
        pods.append(
            Pod(
                uid,
                username=f"user{index % 3}",
                group_name=chance.choice(("", "vision")),
                kind=kind,
                servername=uid,
                session_id=session_id(kind, "jhub", uid, uid),
                gpu_type=chance.choice(("", "A100", "T4")),
                gpu=chance.randrange(3),
                cpu_milli=chance.choice((0, 500, 8001)),
                memory_bytes=chance.choice((1, 2**30, 3 * 2**30 + 1)),
                scheduled_at=since,
                finished_at=None if index % 8 == 0 else until,
            )
        )
    return pods


def _write(database, pods: list[Pod], zone: str) -> None:
    """Bring pods into the ledger; ends are inferred first, and corrected when it is known better."""

    async def write(connection: psycopg.AsyncConnection) -> None:
        epoch = await store.become_leader(connection, "test")
        for index in range(0, len(pods), 20):
            known = pods[index : index + 20]
            unseen = [
                replace(
                    pod, finished_at=None, gone_after=(pod.scheduled_at + pod.finished_at) // 2, gone_by=pod.finished_at
                )
                for pod in known
                if pod.finished_at is not None
            ]
            for batch in (unseen, known):
                await store.apply(connection, epoch, store.Batch(LAST, {pod.pod_uid: pod for pod in batch}))

    with psycopg.connect(database.cluster.dsn(), autocommit=True) as connection:
        periods.set_calendar(connection, zone)
        for since, prices in RATES.items():
            connection.execute(
                "INSERT INTO rate (valid_from, currency, gpu_hour_micro, cpu_hour_micro, memory_gib_hour_micro,"
                " created_by) VALUES (%s, 'EUR', %s, %s, %s, 'test')",
                [since, Jsonb(prices), CPU_PRICE, MEMORY_PRICE],
            )
    database.run(write)


class Truth:
    """Every hour of every pod."""

    def __init__(self, pods: list[Pod]) -> None:
        self._hours = [(pod, *hour) for pod in pods for hour in self._of(pod)]

    @staticmethod
    def _of(pod: Pod) -> Iterator[tuple[int, int, int]]:
        """(hour, seconds, sessions that begin)"""
        since, until = pod.scheduled_at, pod.finished_at or LAST + 40 * DAY
        for hour in range(since - since % HOUR, until, HOUR):
            yield hour, min(hour + HOUR, until) - max(hour, since), int(hour <= since)

    def usage(self, chosen: queries.UsageFilter) -> dict[tuple, list]:
        """(bucket, key) -> GPU seconds, milli-core seconds, MiB seconds, sessions, cost."""
        zone, buckets = ZoneInfo(chosen.time_zone), {}
        sums: dict[tuple, list] = defaultdict(lambda: [0, 0, 0, 0, None])
        begin, end = chosen.begin.timestamp(), chosen.end.timestamp()
        for pod, hour, seconds, sessions in self._hours:
            if not begin <= hour < end or chosen.username not in (None, pod.username):
                continue
            if hour not in buckets:
                buckets[hour] = self._bucket(chosen, hour, zone)
            mib = -(-pod.memory_bytes // 2**20)
            row = sums[buckets[hour], getattr(pod, queries.KEYS[chosen.by])]
            amounts = (seconds * pod.gpu, seconds * pod.cpu_milli, seconds * mib, sessions)
            row[:4] = [before + more for before, more in zip(row[:4], amounts, strict=True)]
            prices = [prices for since, prices in RATES.items() if since.timestamp() <= hour]
            if prices:
                gpu = prices[-1].get(pod.gpu_type.lower(), prices[-1]["default"])
                cost = amounts[0] * gpu + Fraction(amounts[1] * CPU_PRICE, 1000)
                row[4] = (row[4] or 0) + (cost + Fraction(amounts[2] * MEMORY_PRICE, 1024)) / HOUR
        return dict(sums)

    @staticmethod
    def _bucket(chosen: queries.UsageFilter, hour: int, zone: ZoneInfo) -> datetime:
        at = datetime.fromtimestamp(hour, UTC)
        if chosen.step is None:
            return chosen.begin
        if chosen.step == "hour":
            return at
        midnight = at.astimezone(zone).replace(hour=0, minute=0, fold=0)
        return (midnight if chosen.step == "day" else midnight.replace(day=1)).astimezone(UTC)


def _drawn(chance: random.Random, zone: str) -> queries.UsageFilter:
    """Any hours, or months of the zone."""
    if chance.random() < 0.5:
        hours = sorted(chance.sample(range(FIRST // HOUR - 1000, LAST // HOUR + 700), 2))
        begin, end = (datetime.fromtimestamp(hour * HOUR, UTC) for hour in hours)
    else:
        months = sorted(chance.sample(range(1, 9), 2))
        begin, end = (datetime(2026, month, 1, tzinfo=ZoneInfo(zone)).astimezone(UTC) for month in months)
        begin, end = (at.replace(minute=0) for at in (begin, end))
    step = chance.choice((None, None, "hour", "day", "month"))
    if step == "hour":
        end = (begin + (end - begin) / 20).replace(minute=0, second=0, microsecond=0)
    by, username = chance.choice(list(queries.KEYS)), chance.choice((None, None, "user1", "nobody"))
    return queries.UsageFilter(by, begin, end, step, zone, username)


def _plain(rows: list[Any]) -> dict[tuple, list]:
    names = ("gpu_seconds", "cpu_milli_seconds", "memory_mib_seconds", "sessions", "cost")
    return {(row["bucket"].astimezone(UTC), row["key"]): [row[name] for name in names] for row in rows}


async def _pages(connection, chosen: queries.UsageFilter, size: int) -> list[Any]:
    rows, after = [], None
    while page := await queries.usage(connection, chosen, after, size):
        assert len(page) <= size
        rows += page
        after = (page[-1]["bucket"], page[-1]["key"])
    return rows


@pytest.mark.parametrize(
    ("kept", "asked"),
    [
        ("UTC", "UTC"),
        ("Europe/Berlin", "Europe/Berlin"),
        ("Asia/Kolkata", "Asia/Kolkata"),
        # Another zone than that of the rollups, as between a change of the setting and the next migration.
        ("Asia/Taipei", "UTC"),
        ("America/Havana", "Asia/Kathmandu"),
        # Nobody has said yet.
        (None, "Asia/Taipei"),
    ],
)
def test_any_time_is_the_sum_of_its_hours(database, kept, asked):
    chance = random.Random(f"{kept} {asked}")
    pods = _pods(chance)
    _write(database, pods, kept or "UTC")
    if kept is None:
        database.rows("DELETE FROM leader RETURNING 1")
    truth = Truth(pods)

    async def compare() -> int:
        engine, found = create_async_engine(database.cluster.url()), 0
        async with engine.connect() as connection:
            for number in range(15):
                if number >= sample.size(6, 15) and found > 100:
                    break
                chosen = _drawn(chance, asked)
                expected = truth.usage(chosen)
                ways = [await _pages(connection, chosen, 1 + len(expected) // parts) for parts in (1, 4)]
                ways.append([row async for row in queries.stream_usage(connection, chosen)])
                for rows in ways:
                    assert [(row["bucket"], row["key"]) for row in rows] == sorted(expected), chosen
                    for key, sums in _plain(rows).items():
                        assert sums[:4] == expected[key][:4], (chosen, key)
                        cost, right = sums[4], expected[key][4]
                        assert (cost is None) == (right is None), chosen
                        # PostgreSQL divides to 16 digits.
                        assert cost is None or abs(Fraction(cost) - right) < Fraction(1, 1000), chosen
                found += len(expected)
        await engine.dispose()
        return found

    assert asyncio.run(compare()) > 100
