"""Days, months and quarters of zones: which hours are theirs, what a time is made of, and sums made anew."""

from __future__ import annotations

import random
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import psycopg
import pytest
import sample
import service_imports  # noqa: F401
from gpuhub_portal.ledger import periods
from gpuhub_portal.ledger.periods import DAY, HOUR, MONTH, QUARTER, SPANS, Calendar, Piece

ZONES = (
    "UTC",
    "Asia/Taipei",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",  # half an hour off
    "Asia/Kathmandu",  # a quarter of an hour off
    "Australia/Lord_Howe",  # summer time is half an hour
    "America/Havana",  # midnight twice, and left out
    "Atlantic/Azores",  # midnight twice
    "America/Santiago",  # midnight left out
    "Pacific/Kiritimati",  # 14 hours ahead
)


def at(text: str) -> int:
    return int(datetime.fromisoformat(f"{text}:00Z").timestamp())


@pytest.mark.parametrize(
    ("zone", "span", "hour", "begin", "end"),
    [
        ("UTC", DAY, "2026-03-29T23:00", "2026-03-29T00:00", "2026-03-30T00:00"),
        ("UTC", QUARTER, "2026-03-31T23:00", "2026-01-01T00:00", "2026-04-01T00:00"),
        ("UTC", QUARTER, "2026-12-31T23:00", "2026-10-01T00:00", "2027-01-01T00:00"),
        ("Asia/Taipei", DAY, "2026-03-29T16:00", "2026-03-29T16:00", "2026-03-30T16:00"),
        ("Asia/Taipei", MONTH, "2026-02-28T15:00", "2026-01-31T16:00", "2026-02-28T16:00"),
        # 23 and 25 hours.
        ("Europe/Berlin", DAY, "2026-03-29T12:00", "2026-03-28T23:00", "2026-03-29T22:00"),
        ("Europe/Berlin", DAY, "2026-10-25T12:00", "2026-10-24T22:00", "2026-10-25T23:00"),
        ("Europe/Berlin", QUARTER, "2026-03-31T21:00", "2025-12-31T23:00", "2026-03-31T22:00"),
        # The hour that begins at 23:30 is the day's last, the one that begins at 00:30 the first.
        ("Asia/Kolkata", DAY, "2026-05-01T18:00", "2026-04-30T19:00", "2026-05-01T19:00"),
        ("Asia/Kolkata", MONTH, "2026-05-01T19:00", "2026-04-30T19:00", "2026-05-31T19:00"),
        ("Australia/Lord_Howe", DAY, "2026-04-04T14:00", "2026-04-04T13:00", "2026-04-05T14:00"),
        # From 01:00 back to 00:00, and from 00:00 on to 01:00.
        ("America/Havana", DAY, "2026-11-01T04:00", "2026-11-01T04:00", "2026-11-02T05:00"),
        ("America/Havana", DAY, "2026-03-08T05:00", "2026-03-08T05:00", "2026-03-09T04:00"),
    ],
)
def test_hours_of_a_period(zone, span, hour, begin, end):
    assert Calendar(zone).bounds(span, at(hour)) == (at(begin), at(end))


def test_a_period_begins_at_midnight_to_the_second():
    assert Calendar("Asia/Kolkata").midnight(MONTH, at("2026-05-20T00:00")) == at("2026-04-30T18:30")
    assert Calendar("Asia/Kathmandu").midnight(DAY, at("2026-05-20T00:00")) == at("2026-05-19T18:15")


@pytest.mark.parametrize("zone", sample.draw(ZONES, 4))
def test_hours_are_in_the_period_of_their_date(zone):
    """Three years, hour by hour: every hour is in one period of each kind, that of the clock there when it begins."""
    calendar, clock = Calendar(zone), ZoneInfo(zone)
    for span in SPANS:
        known = {}
        for hour in range(at("2025-12-01T00:00"), at("2028-12-01T00:00"), HOUR):
            begin, end = calendar.bounds(span, hour)
            assert begin <= hour < end
            local = datetime.fromtimestamp(hour, clock)
            date = (
                local.year,
                *{DAY: (local.month, local.day), MONTH: (local.month,)}.get(span, ((local.month - 1) // 3,)),
            )
            assert known.setdefault(date, (begin, end)) == (begin, end)
        bounds = list(known.values())
        assert all(before[1] == after[0] for before, after in pairwise(bounds))


@pytest.mark.parametrize("zone", ZONES)
def test_a_time_is_made_of_whole_periods(zone):
    calendar, chance = Calendar(zone), random.Random(zone)
    first, last = at("2025-12-01T00:00") // HOUR, at("2028-12-01T00:00") // HOUR
    for _ in range(sample.size(100, 300)):
        begin, end = (HOUR * each for each in sorted(chance.sample(range(first, last), 2)))
        found = list(periods.pieces(calendar, begin, end))
        assert found[0].begin == begin and found[-1].end == end
        assert all(before.end == after.begin for before, after in pairwise(found))
        for piece in found:
            assert piece.begin < piece.end
            if piece.span != "hour":
                assert calendar.bounds(piece.span, piece.begin)[0] == piece.begin
                assert calendar.bounds(piece.span, piece.end)[0] == piece.end
            # As large as can be: nothing larger fits into it.
            for larger in SPANS[(-1 if piece.span == "hour" else SPANS.index(piece.span)) + 1 :]:
                inner = calendar.bounds(larger, piece.begin)
                following = inner[0] if inner[0] == piece.begin else inner[1]
                assert calendar.bounds(larger, following)[1] > piece.end
        assert len(found) <= 7


def test_a_year_of_the_zone_is_four_quarters():
    begin, end = at("2025-12-31T16:00"), at("2026-12-31T16:00")
    assert list(periods.pieces(Calendar("Asia/Taipei"), begin, end)) == [Piece(QUARTER, begin, end)]
    assert [piece.span for piece in periods.pieces(Calendar("UTC"), begin, end)] == [
        *("hour", QUARTER, MONTH, DAY, "hour"),
    ]
    assert list(periods.pieces(Calendar("UTC"), begin, begin)) == []


@pytest.mark.parametrize(
    ("step", "edges", "expected"),
    [
        (None, [], ["2026-01-31T00:00", "2026-03-01T06:00"]),
        (None, ["2026-01-30T00:00", "2026-01-31T00:00", "2026-03-01T06:00"], ["2026-01-31T00:00", "2026-03-01T06:00"]),
        (MONTH, [], ["2026-01-31T00:00", "2026-02-01T00:00", "2026-03-01T00:00", "2026-03-01T06:00"]),
        (
            *(MONTH, ["2026-02-10T07:00", "2026-02-01T00:00"]),
            ["2026-01-31T00:00", "2026-02-01T00:00", "2026-02-10T07:00", "2026-03-01T00:00", "2026-03-01T06:00"],
        ),
    ],
)
def test_a_time_is_cut_where_steps_and_rates_begin(step, edges, expected):
    found = list(
        periods.cut(Calendar("UTC"), at("2026-01-31T00:00"), at("2026-03-01T06:00"), step, list(map(at, edges)))
    )
    assert found == list(pairwise(map(at, expected)))


def test_sums_of_hours_as_sums_of_periods():
    hours = {
        (at("2026-03-31T22:00"), "alice", "", "job", "T4"): [1, 2, 3, 4],
        (at("2026-03-31T23:00"), "alice", "", "job", "T4"): [10, 20, 30, 40],
        (at("2026-04-02T00:00"), "alice", "", "job", "T4"): [-10, -20, -30, -40],
    }
    key = ("alice", "", "job", "T4")
    april = at("2026-03-31T22:00")
    assert periods.add_up(hours, Calendar("Europe/Berlin")) == {
        (DAY, april, *key): [11, 22, 33, 44],
        (DAY, at("2026-04-01T22:00"), *key): [-10, -20, -30, -40],
        (MONTH, april, *key): [1, 2, 3, 4],
        (QUARTER, april, *key): [1, 2, 3, 4],
    }
    assert periods.add_up(hours | {(april, *key): [0, 0, 0, 0]}, Calendar("Europe/Berlin")).keys() == {
        (DAY, april, *key),
        (DAY, at("2026-04-01T22:00"), *key),
    }


def test_periods_are_made_anew_for_another_zone_and_where_they_are_wrong(database):
    def rows() -> list[tuple]:
        return database.rows("SELECT span, begin, gpu_seconds FROM rollup_period ORDER BY 1, 2")

    with psycopg.connect(database.cluster.dsn(), autocommit=True) as connection:
        for hour, seconds in (("2026-03-31T22:00Z", 1), ("2026-03-31T23:00Z", 10), ("2026-04-01T00:00Z", 0)):
            connection.execute("INSERT INTO rollup_hour VALUES (%s, 'a', 'g', 'job', 'T4', %s)", [hour, seconds])
        assert periods.set_calendar(connection, "UTC")
        march = [("day", at("2026-03-31T00:00"), 11), ("month", at("2026-03-01T00:00"), 11)]
        assert rows() == [*march, ("quarter", at("2026-01-01T00:00"), 11)]
        assert not periods.set_calendar(connection, "UTC")
        assert periods.set_calendar(connection, "Europe/Berlin")
        april = at("2026-03-31T22:00")
        assert rows() == [("day", april, 11), ("month", april, 11), ("quarter", april, 11)]
        assert database.rows("SELECT epoch, time_zone FROM leader") == [(0, "Europe/Berlin")]
        for wrong in (
            "UPDATE rollup_period SET gpu_seconds = 12 WHERE span = 'day'",
            "DELETE FROM rollup_period WHERE span = 'month'",
            "INSERT INTO rollup_period VALUES ('day', now(), 'a', 'g', 'job', 'T4', 1)",
        ):
            connection.execute(wrong)
            assert periods.set_calendar(connection, "Europe/Berlin")
            assert rows() == [("day", april, 11), ("month", april, 11), ("quarter", april, 11)]
        assert not periods.set_calendar(connection, "Europe/Berlin")
