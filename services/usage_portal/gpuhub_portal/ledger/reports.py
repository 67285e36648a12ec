"""What is read from the ledger: usage by hour with what is still held, and whether the books balance."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gpuhub_portal.ledger.tables import allocation, rollup_hour

_MIB = 1 << 20


def mebibytes(memory: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    """Bytes as whole MiB, rounded up."""
    return (memory + (_MIB - 1)) // _MIB


def usage_by_hour(now: datetime) -> sa.Subquery:
    """rollup_hour's columns, at a time: the rollups of closed intervals and, hour by hour, what is held until then.

    Several rows may have the same key: sum them. The open intervals are few, so this stays as fast as the rollups.
    """
    now_ = sa.literal(now, sa.DateTime(timezone=True))
    hours = sa.func.generate_series(
        sa.func.date_trunc("hour", allocation.c.held_from, "UTC"),
        now_,
        sa.text("interval '1 hour'"),
    ).table_valued("hour").render_derived()  # fmt: skip
    end = sa.func.least(hours.c.hour + sa.text("interval '1 hour'"), now_)
    begin = sa.func.greatest(hours.c.hour, allocation.c.held_from)
    seconds = sa.cast(sa.func.extract("epoch", end - begin), sa.BigInteger)
    mib = mebibytes(allocation.c.memory_bytes)
    still = sa.select(
        sa.cast(hours.c.hour, sa.DateTime(timezone=True)).label("hour"),
        allocation.c.username,
        allocation.c.group_name,
        allocation.c.kind,
        allocation.c.gpu_type,
        (seconds * allocation.c.gpu).label("gpu_seconds"),
        (seconds * allocation.c.cpu_milli).label("cpu_milli_seconds"),
        (seconds * mib).label("memory_mib_seconds"),
        sa.literal(0, sa.BigInteger).label("sessions"),
    )
    still = still.select_from(allocation.join(hours, sa.true())).where(
        allocation.c.held_until.is_(None), allocation.c.held_from < now_
    )
    return sa.union_all(sa.select(rollup_hour), still).subquery("usage_by_hour")


@dataclass(frozen=True)
class Books:
    """GPU seconds of one node in a window. They balance if held + idle = capacity + over."""

    node: str
    held: int
    idle: int
    capacity: int
    over: int

    @property
    def difference(self) -> int:
        return self.held + self.idle - self.capacity - self.over


_BOOKS = sa.text("""
    WITH spans(node, held, idle, capacity, over, since, until) AS (
        SELECT node, gpu, 0, 0, 0, held_from, held_until FROM allocation
        WHERE gpu > 0 AND node <> '' AND held_from < :until AND (held_until IS NULL OR held_until > :since)
        UNION ALL SELECT node, 0, gpu, 0, over, since, until FROM idle
        WHERE since < :until AND (until IS NULL OR until > :since)
        UNION ALL SELECT node, 0, 0, gpu, 0, since, until FROM capacity
        WHERE gpu > 0 AND since < :until AND (until IS NULL OR until > :since)
    ), sums AS (
        SELECT *,
               extract(epoch FROM least(coalesce(until, :until), :until) - greatest(since, :since))::bigint AS seconds
        FROM spans
    )
    SELECT node, sum(held * seconds)::bigint, sum(idle * seconds)::bigint, sum(capacity * seconds)::bigint,
           sum(over * seconds)::bigint
    FROM sums GROUP BY node ORDER BY node
""").bindparams(sa.bindparam("since", type_=sa.DateTime(True)), sa.bindparam("until", type_=sa.DateTime(True)))


async def books(connection: AsyncConnection, since: datetime, until: datetime) -> list[Books]:
    """The books of every node in a window of time, in GPU seconds."""
    return [Books(*row) for row in await connection.execute(_BOOKS, {"since": since, "until": until})]
