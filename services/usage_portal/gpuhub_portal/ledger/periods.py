"""Days, months and quarters: which hours they have, which of them a time is made of, and their sums. Pure but the last.

They are those of a time zone's calendar. Hours are those of UTC, and one belongs to the day in which it begins, also
where a zone is half an hour off. So a period is a row of whole hours: its `begin` is the first of them, its `end` the
first of the next period. A day has 23, 24 or 25. Times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import psycopg

from gpuhub_portal.ledger.rollups import HOUR, Sums

DAY, MONTH, QUARTER = "day", "month", "quarter"
SPANS = (DAY, MONTH, QUARTER)
_MONTHS = {MONTH: 1, QUARTER: 3}
_LONGEST = {DAY: 1, MONTH: 31, QUARTER: 92}  # days


class Piece(NamedTuple):
    """Whole hours, days, months or quarters (`span`) from `begin` to `end`."""

    span: str
    begin: int
    end: int


# (span, begin, username, group_name, kind, gpu_type) -> as for hours
PeriodSums = dict[tuple[str, int, str, str, str, str], list[int]]


class Calendar:
    """Periods of a time zone of the tz database; ZoneInfoNotFoundError for others."""

    def __init__(self, time_zone: str) -> None:
        self._zone = ZoneInfo(time_zone)
        # Of what is written and read now there are few hours, and each is asked for once per row.
        self.bounds = lru_cache(maxsize=4096)(self._bounds)

    def midnight(self, span: str, at: int) -> int:
        """When the period began that `at` is in, to the second: not always a whole hour of UTC."""
        return int(self._first_day(span, at).timestamp())

    def _bounds(self, span: str, hour: int) -> tuple[int, int]:
        """(begin, end) of the period that an hour belongs to."""
        first = self._first_day(span, hour)
        following = first + timedelta(days=_LONGEST[span])
        following = following if span == DAY else following.replace(day=1)
        return _whole_hour(int(first.timestamp())), _whole_hour(int(following.timestamp()))

    def _first_day(self, span: str, at: int) -> datetime:
        day = datetime.fromtimestamp(at, self._zone)
        # Of two midnights the first (fold=0); where there is none, the end of the gap.
        day = day.replace(hour=0, minute=0, second=0, fold=0)
        return day if span == DAY else day.replace(day=1, month=day.month - (day.month - 1) % _MONTHS[span])


def _whole_hour(at: int) -> int:
    """The first hour of UTC that begins not before `at`."""
    return -(-at // HOUR) * HOUR


def add_up(sums: Sums, calendar: Calendar) -> PeriodSums:
    """Sums of hours as sums of their periods, those that are 0 left out."""
    found: PeriodSums = {}
    for (hour, *key), amounts in sums.items():
        for span in SPANS:
            total = found.setdefault((span, calendar.bounds(span, hour)[0], *key), [0] * len(amounts))
            for index, amount in enumerate(amounts):
                total[index] += amount
    return {key: amounts for key, amounts in found.items() if any(amounts)}


def pieces(calendar: Calendar, begin: int, end: int, spans: tuple[str, ...] = (QUARTER, MONTH, DAY)) -> Iterator[Piece]:
    """What the hours from `begin` to `end` are made of: quarters, at their edges months, at theirs days and hours."""
    if begin >= end:
        return
    if not spans:
        yield Piece("hour", begin, end)
        return
    span, *finer = spans
    this, following = calendar.bounds(span, begin)
    first = begin if begin == this else following
    last = calendar.bounds(span, end)[0]
    if first >= last:
        yield from pieces(calendar, begin, end, tuple(finer))
        return
    yield from pieces(calendar, begin, first, tuple(finer))
    yield Piece(span, first, last)
    yield from pieces(calendar, last, end, tuple(finer))


def cut(calendar: Calendar, begin: int, end: int, step: str | None, edges: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(begin, end) of the parts that hours come in where each period `step` begins, and at each of `edges`."""
    inner = sorted(edge for edge in edges if begin < edge < end)
    while begin < end:
        following = calendar.bounds(step, begin)[1] if step else end
        while inner and inner[0] <= begin:
            inner.pop(0)
        until = min(end, following, *inner[:1])
        yield begin, until
        begin = until


_SUMS = ("gpu_seconds", "cpu_milli_seconds", "memory_mib_seconds", "sessions")
_ADDED_UP = f"""
    SELECT span, to_timestamp(begin) AS begin, username, group_name, kind, gpu_type,
           {", ".join(f"sum({name})::bigint AS {name}" for name in _SUMS)}
    FROM rollup_hour JOIN calendar ON rollup_hour.hour = to_timestamp(calendar.hour)
    GROUP BY 1, 2, 3, 4, 5, 6 HAVING ({", ".join(f"sum({name})" for name in _SUMS)}) <> (0, 0, 0, 0)
"""


def set_calendar(connection: psycopg.Connection, time_zone: str) -> bool:
    """Let periods be those of a time zone, and their sums those of the hours; whether anything was changed.

    In one transaction, for which a collector waits.
    """
    with connection.transaction():
        # Locks the row, too, if it is there.
        known = connection.execute(
            "INSERT INTO leader (id, epoch, holder) VALUES (1, 0, '')"
            " ON CONFLICT (id) DO UPDATE SET holder = leader.holder RETURNING time_zone"
        ).fetchone()
        calendar = Calendar(time_zone)
        hours = connection.execute("SELECT DISTINCT extract(epoch FROM hour)::bigint FROM rollup_hour").fetchall()
        rows = [(hour, span, calendar.bounds(span, hour)[0]) for (hour,) in hours for span in SPANS]
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE calendar (hour bigint, span text, begin bigint) ON COMMIT DROP")
            with cursor.copy("COPY calendar FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        connection.execute(f"CREATE TEMPORARY TABLE added_up ON COMMIT DROP AS {_ADDED_UP}")
        wrong = connection.execute("""
            SELECT EXISTS (TABLE added_up EXCEPT TABLE rollup_period)
                OR EXISTS (TABLE rollup_period EXCEPT TABLE added_up)
        """).fetchone()
        if known[0] == time_zone and not wrong[0]:
            return False
        connection.execute("UPDATE leader SET time_zone = %s", [time_zone])
        connection.execute("DELETE FROM rollup_period")
        connection.execute("INSERT INTO rollup_period TABLE added_up")
        return True
