"""Which notebooks have to end because a budget of their user is used up, and when.

The time is predicted from what is used and from the rate at which all open allocations of the user go on using it, at
present prices. It is kept in a table, so that every call and every replica says the same, and so that nothing ends
sooner than the least notice after that was said first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import ceil
from typing import Any

import sqlalchemy as sa
from gpuhub_core.quantities import BYTES_PER_MIB
from gpuhub_core.quota_policy import Budget, Rate
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from . import audit, queries, tables
from .policy import Policies
from .problems import ProblemError

# Of a budget that is used up already.
_PAST = datetime.min.replace(tzinfo=UTC)
_LONGEST = timedelta(days=3660)
_LOCK = 5203


@dataclass(frozen=True)
class End:
    """A notebook that ends."""

    pod_uid: str
    username: str
    servername: str
    ends_at: datetime
    reason: str


def used_up_at(budget: Budget, used: int, per_second: Fraction, now: datetime) -> datetime | None:
    """Return when a budget is used up if use goes on like this, long ago if it is; None if it is not in its window.

    That hours of rolling windows are over by then is not counted on: the time only gets later by it.
    """
    if used >= budget.amount:
        return _PAST
    if not per_second or (left := ceil((budget.amount - used) / per_second)) > _LONGEST.total_seconds():
        return None
    at, end = now + timedelta(seconds=left), budget.window(now)[1]
    return at if end is None or at < end else None


def settled(wanted: datetime, known: datetime | None, now: datetime, least: timedelta) -> datetime:
    """Return when something ends of which `known` was said before, None for nothing; not before `least` is over."""
    soonest = now + least
    return max(wanted, soonest if known is None else min(known, soonest))


def _per_second(budget: Budget, open_now: Sequence[queries.Open], rate: Rate | None) -> Fraction:
    """How much of a budget a user's open allocations use in a second, in its units."""
    if budget.resource == "gpu_hours":
        return Fraction(sum(each.resources.gpu for each in open_now))
    if budget.resource == "cpu_hours":
        return Fraction(sum(each.resources.cpu_milli for each in open_now))
    if rate is None:
        return Fraction(0)
    return sum(
        (
            rate.cost(
                each.gpu_type,
                each.resources.gpu,
                each.resources.cpu_milli,
                -(-each.resources.memory_bytes // BYTES_PER_MIB),
            )
            for each in open_now
        ),
        Fraction(0),
    )


async def ends(connection: AsyncConnection, policies: Policies, notice: timedelta, least: timedelta) -> list[End]:
    """Return the notebooks that end within `notice`, soonest first, and keep what was said.

    None of them ends sooner than `least` after that was said.
    """
    await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK, 0)))
    clock = sa.func.date_trunc("second", sa.func.clock_timestamp())
    now = (await connection.execute(sa.select(clock))).scalar_one()
    wanted = await _wanted(connection, policies, now)
    found = tables.enforcement.c
    known = dict((await connection.execute(sa.select(found.pod_uid, found.ends_at))).tuples().all())
    horizon = now + max(notice, least)
    result = [
        End(each.pod_uid, each.username, each.servername, settled(at, known.get(each.pod_uid), now, least), reason)
        for each, at, reason in wanted
        if at <= horizon
    ]
    await _keep(connection, result)
    return sorted(result, key=lambda end: (end.ends_at, end.username, end.servername))


async def _wanted(
    connection: AsyncConnection, policies: Policies, now: datetime
) -> list[tuple[queries.Open, datetime, str]]:
    """Every open notebook with the time at which the first of its user's budgets is used up, and which that is."""
    current = await policies.current(connection)
    by_user: dict[str, list[queries.Open]] = defaultdict(list)
    for each in await queries.open_allocations(connection):
        by_user[each.username].append(each)
    budgets = {
        name: current.budgets(name) for name, found in by_user.items() if any(each.kind == "notebook" for each in found)
    }
    windows = {(name, budget.window(now)[0]) for name, found in budgets.items() for budget in found}
    if not windows:
        return []
    with_cost = any(budget.resource == "cost" for found in budgets.values() for budget in found)
    used = await queries.used_since(connection, now, windows, with_cost=with_cost)
    until = await _extended(connection, now)
    rate, result = current.policy.rate_at(now), []
    for name, found in budgets.items():
        over = []
        for budget in found:
            amount = getattr(
                used.get((name, budget.window(now)[0]), queries.NOTHING_USED), queries.USED[budget.resource]
            )
            at = used_up_at(budget, amount, _per_second(budget, by_user[name], rate), now)
            if at is not None:
                over.append((max(at, until.get(name, _PAST)), budget))
        for each in by_user[name]:
            # A budget of GPU hours leaves notebooks without GPUs, as it does when they start.
            own = [pair for pair in over if each.resources.gpu or pair[1].resource != "gpu_hours"]
            if own and each.kind == "notebook":
                at, budget = min(own, key=lambda pair: pair[0])
                result.append((each, at, f"Your budget of {budget} is used up."))
    return result


async def _keep(connection: AsyncConnection, said: Sequence[End]) -> None:
    table = tables.enforcement
    await connection.execute(sa.delete(table).where(table.c.pod_uid.not_in([end.pod_uid for end in said])))
    if said:
        made = insert(table).values([{"pod_uid": end.pod_uid, "ends_at": end.ends_at} for end in said])
        changed = made.on_conflict_do_update(
            index_elements=["pod_uid"],
            set_={"ends_at": made.excluded.ends_at},
            where=table.c.ends_at != made.excluded.ends_at,
        )
        await connection.execute(changed)


# --- extensions ---


async def _extended(connection: AsyncConnection, now: datetime) -> dict[str, datetime]:
    extension = tables.extension.c
    query = sa.select(extension.username, extension.until).where(extension.until > now)
    return dict((await connection.execute(query)).tuples().all())


async def extensions(connection: AsyncConnection, after: str | None, limit: int) -> Sequence[Any]:
    """Extensions that hold, by user, behind the one of the user `after`."""
    extension = tables.extension.c
    query = sa.select(tables.extension).where(extension.until > sa.func.clock_timestamp())
    if after is not None:
        query = query.where(extension.username > after)
    return (await connection.execute(query.order_by(extension.username).limit(limit))).all()


async def extend(connection: AsyncConnection, actor: str, username: str, until: datetime, reason: str) -> Any:
    """Let a user's notebooks run until then, whatever their budgets say. Raises ProblemError 409."""
    now = (await connection.execute(sa.select(sa.func.clock_timestamp()))).scalar_one()
    if until <= now:
        raise ProblemError(409, "in_the_past", "An extension ends in the future.")
    before = await _extension(connection, username)
    row = {"until": until, "reason": reason, "created_by": actor, "created_at": now}
    made = insert(tables.extension).values(username=username, **row)
    made = made.on_conflict_do_update(index_elements=["username"], set_=row)
    made = (await connection.execute(made.returning(tables.extension))).one()
    if before is None or _document(before) != _document(made):
        previous = None if before is None else _document(before)
        await audit.record(connection, actor, "extension.put", f"user/{username}", previous, _document(made))
    return made


async def end_extension(connection: AsyncConnection, actor: str, username: str) -> None:
    """Let a user's budgets hold again. Raises ProblemError 404."""
    before = await _extension(connection, username)
    if before is None:
        raise ProblemError(404, "not_found", "This user has no extension.")
    await connection.execute(sa.delete(tables.extension).where(tables.extension.c.username == username))
    await audit.record(connection, actor, "extension.delete", f"user/{username}", _document(before))


async def tidy(connection: AsyncConnection) -> None:
    """Remove extensions that are over. They do not hold since."""
    over = tables.extension.c.until <= sa.func.clock_timestamp()
    await connection.execute(sa.delete(tables.extension).where(over))


async def _extension(connection: AsyncConnection, username: str) -> Any:
    query = sa.select(tables.extension).where(tables.extension.c.username == username).with_for_update()
    return (await connection.execute(query)).one_or_none()


def _document(row: Any) -> dict[str, str]:
    return {"until": row.until.astimezone(UTC).isoformat().replace("+00:00", "Z"), "reason": row.reason}
