"""What the portal reads of the ledger, and the little that it writes there: only here are those tables named.

Use is what pods hold: from the moment in which a pod is scheduled until it is gone. `rollup_hour` and `rollup_period`
have what is over; what is held still is added up to now when it is read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import chain, groupby
from typing import Any, NamedTuple

import sqlalchemy as sa
from gpuhub_core.pod_requests import NodeAccount
from gpuhub_core.quantities import Resources
from sqlalchemy.dialects.postgresql import ARRAY, array, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from . import tables
from .ledger import reports
from .ledger.periods import Calendar, Piece, cut, pieces
from .ledger.rollups import HOUR
from .ledger.tables import allocation as _allocation
from .ledger.tables import leader as _leader
from .ledger.tables import node_state as _node_state
from .ledger.tables import rollup_hour as _rollup
from .ledger.tables import rollup_period as _period
from .ledger.tables import session as _session
from .ledger.tables import stream as _stream
from .ledger.tables import witness as _witness

_NOTHING = Resources()
_SUMS = ("gpu_seconds", "cpu_milli_seconds", "memory_mib_seconds")
_COUNTS = (*_SUMS, "sessions")
# One for each zone, so that what it has worked out stays known.
_calendar = cache(Calendar)


def _held() -> Any:
    return sa.and_(_allocation.c.held_from.is_not(None), _allocation.c.held_until.is_(None))


def _whole(column: Any) -> Any:
    """A sum as an integer; PostgreSQL adds bigints up to a numeric."""
    return sa.cast(sa.func.coalesce(sa.func.sum(column), 0), sa.BigInteger)


def _amounts(table: Any) -> tuple[Any, Any, Any]:
    return _whole(table.c.cpu_milli), _whole(table.c.memory_bytes), _whole(table.c.gpu)


def _reserved() -> Any:
    """Granted, not over, and not seen as a pod that holds it: from then on that pod counts, in the same instant."""
    granted = tables.reservation.c
    pod = sa.exists().where(
        _allocation.c.reservation == sa.cast(granted.id, sa.Text),
        # As the index says it.
        _allocation.c.reservation != sa.text("''"),
        _allocation.c.held_from.is_not(None),
    )
    # Not now(): that is when the transaction began, before it waited for a lock.
    return sa.and_(granted.state == "active", granted.expires_at > sa.func.clock_timestamp(), ~pod)


@dataclass(frozen=True)
class Use:
    """What somebody has: held by pods, and granted to what is about to start."""

    held: Resources = _NOTHING
    reserved: Resources = _NOTHING

    @property
    def total(self) -> Resources:
        """Both."""
        return self.held + self.reserved


async def use(connection: AsyncConnection, username: str | None = None) -> dict[str, Use]:
    """What everybody, or one user, has now, by user name; who has nothing is missing."""
    parts = []
    for table, condition, kind in (
        (_allocation, _held(), "held"),
        (tables.reservation, _reserved(), "reserved"),
    ):
        query = sa.select(sa.literal(kind).label("part"), table.c.username, *_amounts(table)).where(condition)
        if username is not None:
            query = query.where(table.c.username == username)
        parts.append(query.group_by(table.c.username))
    found: dict[str, dict[str, Resources]] = {}
    for part, name, *amounts in (await connection.execute(sa.union_all(*parts))).all():
        found.setdefault(name, {})[part] = Resources(*map(int, amounts))
    return {name: Use(**has) for name, has in found.items()}


@dataclass(frozen=True)
class Pending:
    """What has been granted and no pod holds yet. `node` is the one that it is bound to, or empty."""

    node: str
    gpu_type: str
    resources: Resources


async def followed(connection: AsyncConnection) -> tuple[datetime | None, datetime]:
    """Up to when the ledger knows both pods and nodes, None if it never did; and what time it is."""
    stream = _stream.c
    query = sa.select(sa.func.count(), sa.func.min(stream.followed_at), sa.func.clock_timestamp())
    streams, at, now = (await connection.execute(query.where(stream.name.in_(["pods", "nodes"])))).one()
    return at if streams == 2 else None, now


class Cluster(NamedTuple):
    """Every node that is known, by name, and what is pending."""

    nodes: list[NodeAccount]
    pending: list[Pending]


async def cluster(connection: AsyncConnection) -> Cluster:
    """Read what there is. One statement: what is settled meanwhile is in one of both, neither in both nor in none."""
    held, granted = _allocation.c, tables.reservation.c
    build = sa.func.jsonb_build_object
    parts = sa.union_all(
        sa.select(sa.literal("node").label("part"), sa.func.to_jsonb(_node_state.table_valued())),
        sa.select(sa.literal("held"), build("node", held.node, "gpu", _whole(held.gpu)))
        .where(_held(), held.gpu > 0)
        .group_by(held.node),
        sa.select(
            sa.literal("pending"),
            build(
                *("node", sa.func.coalesce(granted.home_node, "")),
                *("gpu_type", sa.func.coalesce(granted.gpu_type, "")),
                *("amounts", sa.func.jsonb_build_array(granted.cpu_milli, granted.memory_bytes, granted.gpu)),
            ),
        ).where(_reserved()),
    )
    found: dict[str, list[dict[str, Any]]] = {"node": [], "held": [], "pending": []}
    for part, document in (await connection.execute(parts)).all():
        found[part].append(document)
    gpus = {each["node"]: each["gpu"] for each in found["held"]}
    nodes = [_account(node, gpus.get(node["node"], 0)) for node in sorted(found["node"], key=lambda node: node["node"])]
    pending = [Pending(each["node"], each["gpu_type"], Resources(*each["amounts"])) for each in found["pending"]]
    return Cluster(nodes, pending)


def _account(node: dict[str, Any], held_gpus: int) -> NodeAccount:
    """A row of `node_state`, and the GPUs that pods on it hold."""
    repels = "not ready" if not node["ready"] else "" if node["schedulable"] else "cordoned"
    cores, memory, taken = node["cpu_milli"], node["memory_bytes"], node["requested_extended"]
    return NodeAccount(
        name=node["node"],
        gpu_type=node["gpu_type"],
        product=node["product"],
        capacity=Resources(cores, memory, node["gpu_capacity"]),
        allocatable=Resources(cores, memory, node["gpu"]),
        used=Resources(node["requested_cpu_milli"], node["requested_memory_bytes"], held_gpus),
        extra={name: 0 if repels else max(amount - taken.get(name, 0), 0) for name, amount in node["extended"].items()},
        taints=tuple(node["taints"]),
        repels=repels,
    )


# --- sessions ---


@cache
def _priced() -> Any:
    """Rates with the time until which they hold."""
    later = sa.func.lead(tables.rate.c.valid_from).over(order_by=tables.rate.c.valid_from)
    return sa.select(
        tables.rate, sa.func.coalesce(later, sa.literal("infinity", tables.Time)).label("valid_until")
    ).cte("priced")


# Of what `_cost_units` gives there are so many in a micro-unit of the currency: seconds, thousandths, and MiB in a GiB.
_COST_UNIT = HOUR * 1000 * 1024


def _cost_units(priced: Any, gpu_type: Any, gpu_seconds: Any, cpu_milli_seconds: Any, memory_mib_seconds: Any) -> Any:
    """The cost in units that need no division, which is slow and rounds: a numeric, exact."""
    number = sa.Numeric

    def gpu_rate(key: Any) -> Any:
        return sa.cast(priced.c.gpu_hour_micro.op("->>")(key), number)

    gpu = sa.func.coalesce(gpu_rate(sa.func.lower(gpu_type)), gpu_rate(sa.literal("default")), 0)
    return (
        sa.cast(gpu_seconds, number) * gpu * (1000 * 1024)
        + sa.cast(cpu_milli_seconds, number) * priced.c.cpu_hour_micro * 1024
        + sa.cast(memory_mib_seconds, number) * priced.c.memory_gib_hour_micro * 1000
    )


def _cost(*arguments: Any) -> Any:
    """As `_cost_units`, in micro-units of the currency."""
    return _cost_units(*arguments) / sa.literal(_COST_UNIT, sa.Numeric)


@dataclass(frozen=True)
class SessionFilter:
    """Which sessions: of a user, of a kind, in a state, or that touched a time."""

    username: str | None = None
    kind: str | None = None
    running: bool | None = None
    begin: datetime | None = None
    end: datetime | None = None


async def sessions(
    connection: AsyncConnection, chosen: SessionFilter, after: tuple[datetime, str] | None, limit: int
) -> list[dict[str, Any]]:
    """Sessions, latest first, behind the one whose start and id are `after`; each with what its pods held."""
    columns = _session.c
    query = sa.select(_session).order_by(columns.started_at.desc(), columns.id.desc()).limit(limit)
    if chosen.username is not None:
        query = query.where(columns.username == chosen.username)
    if chosen.kind is not None:
        query = query.where(columns.kind == chosen.kind)
    if chosen.running is not None:
        query = query.where(columns.ended_at.is_(None) if chosen.running else columns.ended_at.is_not(None))
    if chosen.begin is not None:
        query = query.where(sa.or_(columns.ended_at.is_(None), columns.ended_at > chosen.begin))
    if chosen.end is not None:
        query = query.where(columns.started_at < chosen.end)
    if after is not None:
        query = query.where(
            sa.tuple_(columns.started_at, columns.id)
            < sa.tuple_(sa.literal(after[0], tables.Time), sa.literal(after[1], sa.Text))
        )
    return await _with_pods(connection, (await connection.execute(query)).mappings().all())


async def session(connection: AsyncConnection, session_id: str) -> dict[str, Any] | None:
    """One session with what its pods held, or None."""
    rows = (await connection.execute(sa.select(_session).where(_session.c.id == session_id))).mappings().all()
    return (await _with_pods(connection, rows))[0] if rows else None


async def sessions_by_id(connection: AsyncConnection, ids: Iterable[str]) -> list[dict[str, Any]]:
    """Those sessions that there are of `ids`, each with what its pods held."""
    query = sa.select(_session).where(_session.c.id.in_(list(ids)))
    return await _with_pods(connection, (await connection.execute(query)).mappings().all())


async def _with_pods(connection: AsyncConnection, rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Add nodes, types, seconds and cost of the sessions' pods; running ones up to now."""
    priced, held = _priced(), _allocation.c
    until = sa.func.coalesce(held.held_until, sa.func.now())
    begins = sa.func.greatest(held.held_from, sa.func.coalesce(priced.c.valid_from, held.held_from))
    ends = sa.func.least(until, sa.func.coalesce(priced.c.valid_until, until))
    seconds = sa.cast(sa.func.greatest(sa.extract("epoch", ends - begins), 0), sa.Numeric)
    mebibytes = held.memory_bytes / sa.literal(2**20, sa.Numeric)
    pieces = (
        sa.select(
            held.session_id,
            held.node,
            held.gpu_type,
            (held.until_source == "inferred").label("inferred"),
            (seconds * held.gpu).label("gpu_seconds"),
            (seconds * held.cpu_milli).label("cpu_milli_seconds"),
            (seconds * mebibytes).label("memory_mib_seconds"),
            _cost(priced, held.gpu_type, seconds * held.gpu, seconds * held.cpu_milli, seconds * mebibytes).label(
                "cost"
            ),
        )
        .select_from(
            _allocation.outerjoin(priced, sa.and_(priced.c.valid_from < until, priced.c.valid_until > held.held_from))
        )
        .where(held.session_id.in_([row["id"] for row in rows]), held.held_from.is_not(None))
        .subquery()
    )
    names = sa.func.array_agg(sa.distinct(pieces.c.node)).filter(pieces.c.node != "")
    types = sa.func.array_agg(sa.distinct(pieces.c.gpu_type)).filter(pieces.c.gpu_seconds > 0)
    totals = sa.select(
        pieces.c.session_id,
        names.label("nodes"),
        types.label("gpu_types"),
        sa.func.bool_or(sa.func.coalesce(pieces.c.inferred, False)).label("inferred"),
        *(sa.func.sum(pieces.c[name]).label(name) for name in (*_SUMS, "cost")),
    ).group_by(pieces.c.session_id)
    found = {row["session_id"]: row for row in (await connection.execute(totals)).mappings()} if rows else {}
    nothing = dict.fromkeys(_SUMS, 0) | {"nodes": None, "gpu_types": None, "inferred": False, "cost": None}
    return [dict(row) | (dict(found.get(row["id"], nothing))) for row in rows]


async def add_session(connection: AsyncConnection, row: dict[str, Any]) -> tuple[str, bool]:
    """Record a session outside the cluster: its id, and whether it is new; of one key there is one."""
    member = tables.policy_member.c
    # As the ledger does it for pods: of several groups the alphabetically first.
    first = sa.select(sa.func.min(sa.collate(member.group_name, "C"))).where(member.username == row["username"])
    group_name = sa.func.coalesce(first.scalar_subquery(), "")
    made = (
        insert(_session)
        .values({**row, "group_name": group_name})
        .on_conflict_do_nothing(index_elements=["idempotency_key"])
    )
    new = (await connection.execute(made.returning(_session.c.id))).scalar_one_or_none()
    if new is not None:
        return new, True
    known = sa.select(_session.c.id).where(_session.c.idempotency_key == row["idempotency_key"])
    return (await connection.execute(known)).scalar_one(), False


async def lock_session(connection: AsyncConnection, session_id: str) -> Any:
    """The session's row, locked until the transaction ends, or None."""
    query = sa.select(_session).where(_session.c.id == session_id).with_for_update()
    return (await connection.execute(query)).one_or_none()


async def end_session(connection: AsyncConnection, session_id: str, at: datetime) -> None:
    """Note the end of a session."""
    await connection.execute(sa.update(_session).where(_session.c.id == session_id).values(ended_at=at))


async def add_witness(connection: AsyncConnection, producer: str, events: Iterable[dict[str, Any]]) -> int:
    """Keep what a producer saw; what is known already counts once. Returns how many were new."""
    rows = [{"producer": producer, **event} for event in events]
    made = insert(_witness).values(rows).on_conflict_do_nothing(index_elements=["producer", "event_id"])
    return len((await connection.execute(made.returning(_witness.c.event_id))).all())


# --- usage ---

KEYS = {"user": "username", "group": "group_name", "gpu_type": "gpu_type", "kind": "kind"}


@dataclass(frozen=True)
class UsageFilter:
    """Which hours of whom, and how they are added up; `begin` and `end` are whole hours."""

    by: str
    begin: datetime
    end: datetime
    step: str | None = None
    time_zone: str = "UTC"
    username: str | None = None


def _hours(begin: datetime, end: datetime | None = None) -> tuple[Any, Any]:
    """What was used in each hour from `begin` to `end` (whole hours): the rows, and the condition."""
    now = datetime.now(UTC)
    source = reports.usage_by_hour(now if end is None else min(now, end))
    chosen = source.c.hour >= begin
    return source, chosen if end is None else sa.and_(chosen, source.c.hour < end)


_ROOM = 100 * 24 * HOUR


class _Extent(NamedTuple):
    """Between which hours there is anything, since when the oldest interval is open, zone of periods, rates."""

    first: datetime | None
    last: datetime | None
    open_since: datetime | None
    time_zone: str | None
    rates: list[datetime] | None


_EXTENT = sa.select(
    sa.select(sa.func.min(_rollup.c.hour)).scalar_subquery(),
    sa.select(sa.func.max(_rollup.c.hour)).scalar_subquery(),
    sa.select(sa.func.min(_allocation.c.held_from)).where(_held()).scalar_subquery(),
    sa.select(_leader.c.time_zone).scalar_subquery(),
    sa.select(sa.func.array_agg(tables.rate.c.valid_from)).scalar_subquery(),
)


class _Part(NamedTuple):
    """Hours from `begin` to `end`, all in one period of the answer and at one rate."""

    begin: int
    end: int
    bucket: datetime
    valid_from: datetime | None


def _parts(chosen: UsageFilter, extent: _Extent, now: datetime) -> list[_Part]:
    """What the time is cut into, so far as there is anything."""
    earliest = [int(at.timestamp()) for at in (extent.first, extent.open_since) if at is not None]
    latest = [int(at.timestamp()) for at in (extent.last, now) if at is not None]
    if not earliest:
        return []
    # No period in which there is nothing is looked for; some room, so that whole ones are still such.
    begin = max(int(chosen.begin.timestamp()), min(earliest) // HOUR * HOUR - _ROOM)
    end = min(int(chosen.end.timestamp()), max(latest) // HOUR * HOUR + _ROOM)
    steps, parts = _calendar(chosen.time_zone), []
    rates = sorted(int(at.timestamp()) for at in extent.rates or ())
    for since, until in cut(steps, begin, end, chosen.step, rates):
        bucket = chosen.begin if chosen.step is None else _instant(steps.midnight(chosen.step, since))
        rate = max((at for at in rates if at <= since), default=None)
        parts.append(_Part(since, until, bucket, None if rate is None else _instant(rate)))
    return parts


def _instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# Columns of times that are given, and which part of the answer each belongs to.
_TIMES = {"span": sa.Text, "since": tables.Time, "until": tables.Time, "part": sa.Integer}
_PARTS = {"part": sa.Integer, "bucket": tables.Time, "valid_from": tables.Time}


def _given_values(parts: Sequence[_Part], kept: Calendar | None, open_since: datetime | None) -> dict[str, Any]:
    """Parameters of `_by_period`: as few quarters, months, days and hours as the parts are made of."""
    given: dict[str, list[tuple[Any, ...]]] = {"periods": [], "hours": [], "open": []}
    for number, part in enumerate(parts):
        whole = Piece("hour", part.begin, part.end)
        for piece in [whole] if kept is None else pieces(kept, part.begin, part.end):
            name = "hours" if piece.span == "hour" else "periods"
            given[name].append((piece.span, _instant(piece.begin), _instant(piece.end), number))
        if open_since is not None and part.end > open_since.timestamp():
            given["open"].append(("", _instant(part.begin), _instant(part.end), number))
    labels = [(number, part.bucket, part.valid_from) for number, part in enumerate(parts)]
    return {
        f"{name}_{column}": [row[index] for row in rows]
        for name, columns, rows in (*((name, _TIMES, rows) for name, rows in given.items()), ("parts", _PARTS, labels))
        for index, column in enumerate(columns)
    }


def _given(name: str, columns: Mapping[str, Any]) -> Any:
    """A table of rows that come as arrays, so that one statement serves any number of them."""
    arrays = [sa.bindparam(f"{name}_{column}", type_=ARRAY(kind)) for column, kind in columns.items()]
    table = sa.func.unnest(*arrays).table_valued(*(sa.column(*column) for column in columns.items()), name=name)
    return table.render_derived()


def _sums(by: str, of_one: bool, table: Any, amounts: Sequence[Any], source: Any, *parts: Any) -> Any:
    """Sums of a table by part of the answer, key and GPU type: integers."""
    keys = (*parts, table[KEYS[by]].label("key"), table.gpu_type.label("gpu_type"))
    sums = [sa.func.sum(amount).label(name) for name, amount in zip(_COUNTS, amounts)]
    query = sa.select(*keys, *sums).select_from(source).group_by(*keys)
    return query.where(table.username == sa.bindparam("username", type_=sa.Text)) if of_one else query


def _by_hour(chosen: UsageFilter) -> Any:
    priced = _priced()
    source, within = _hours(chosen.begin, chosen.end)
    hours = source.c
    rated = source.outerjoin(priced, sa.and_(hours.hour >= priced.c.valid_from, hours.hour < priced.c.valid_until))
    parts = (hours.hour.label("bucket"), priced.c.valid_from.label("valid_from"))
    amounts = [hours[name] for name in _COUNTS]
    return _sums(chosen.by, chosen.username is not None, hours, amounts, rated, *parts).where(within)


def _by_period(by: str, of_one: bool) -> Any:
    """Sums of the rollups in the times that are given, and of what is held still in those."""
    found = []
    for name, table, at in (("periods", _period, _period.c.begin), ("hours", _rollup, _rollup.c.hour)):
        time = _given(name, _TIMES)
        within = sa.and_(at >= time.c.since, at < time.c.until)
        if table is _period:
            # A simple equation would make PostgreSQL compare all rows of a span with all times, instead of looking up.
            within = sa.and_(table.c.span == sa.any_(array([time.c.span])), within)
        amounts = [table.c[column] for column in _COUNTS]
        found.append(_sums(by, of_one, table.c, amounts, time.join(table, within), time.c.part))
    time, held, now = _given("open", _TIMES), _allocation.c, sa.bindparam("now", type_=tables.Time)
    end = sa.func.least(time.c.until, now)
    seconds = sa.cast(sa.extract("epoch", end - sa.func.greatest(time.c.since, held.held_from)), sa.BigInteger)
    units = (held.gpu, held.cpu_milli, reports.mebibytes(held.memory_bytes))
    amounts = [*(seconds * unit for unit in units), sa.literal(0, sa.BigInteger)]
    touched = time.join(_allocation, sa.and_(_held(), held.held_from < end, time.c.since < now))
    found.append(_sums(by, of_one, held, amounts, touched, time.c.part))
    sums, parts = sa.union_all(*found).subquery("found"), _given("parts", _PARTS)
    query = sa.select(parts.c.bucket, parts.c.valid_from, *(each for each in sums.c if each.name != "part"))
    return query.select_from(sums.join(parts, parts.c.part == sums.c.part))


def _with_cost(sums: Any) -> Any:
    """Sums and cost by period and key; few rows are multiplied with rates. `limit` is a parameter, None for all."""
    sums, priced = sums.subquery("sums"), _priced()
    keys = (sums.c.bucket, sums.c.key)
    units = _cost_units(priced, sums.c.gpu_type, *(sums.c[name] for name in _SUMS))
    cost = (sa.func.sum(units) / sa.literal(_COST_UNIT, sa.Numeric)).label("cost")
    query = sa.select(*keys, *(_whole(sums.c[name]).label(name) for name in _COUNTS), cost)
    query = query.select_from(sums.outerjoin(priced, priced.c.valid_from == sums.c.valid_from))
    return query.group_by(*keys).order_by(*keys).limit(sa.bindparam("limit", type_=sa.Integer))


# Made once: to put it together takes longer than to run it.
_periods_with_cost = cache(lambda by, of_one: _with_cost(_by_period(by, of_one)))


async def _usage(
    connection: AsyncConnection, chosen: UsageFilter, first: datetime | None = None
) -> AsyncIterator[tuple[Any, dict[str, Any]]]:
    """Statements with their parameters, each of which gives the rows of some periods, from `first` on.

    A page needs few periods: the statements are of two of them, of four and so on.
    """
    of_one = {"username": chosen.username} if chosen.username is not None else {}
    if chosen.step == "hour":
        yield _with_cost(_by_hour(chosen)), of_one
        return
    extent, now = _Extent(*(await connection.execute(_EXTENT)).one()), datetime.now(UTC)
    # Before a collector or a migration has said whose days and months are kept there are only hours.
    kept = _calendar(extent.time_zone) if extent.time_zone else None
    parts = _parts(chosen, extent, now)
    periods = [list(each) for _, each in groupby(parts, lambda part: part.bucket)]
    periods, size = [period for period in periods if first is None or period[0].bucket >= first], 2
    while periods:
        values = _given_values(list(chain.from_iterable(periods[:size])), kept, extent.open_since)
        periods, size = periods[size:], 2 * size
        yield _periods_with_cost(chosen.by, bool(of_one)), {"now": now} | of_one | values


async def usage(
    connection: AsyncConnection, chosen: UsageFilter, after: tuple[datetime, str] | None, limit: int
) -> list[Any]:
    """A page of sums by period and key, behind the row whose period and key are `after`.

    The connection is one whose statements see the same (`Database.snapshot`).
    """
    rows: list[Any] = []
    async for query, values in _usage(connection, chosen, after[0] if after else None):
        if after is not None:
            bucket, key = query.selected_columns.bucket, query.selected_columns.key
            query = query.having(
                sa.tuple_(bucket, key) > sa.tuple_(sa.literal(after[0], tables.Time), sa.literal(after[1], sa.Text))
            )
        rows += (await connection.execute(query, values | {"limit": limit - len(rows)})).mappings()
        if len(rows) == limit:
            break
    return rows


async def stream_usage(connection: AsyncConnection, chosen: UsageFilter) -> AsyncIterator[Any]:
    """All rows, read as they are taken; the connection as for `usage`."""
    async for query, values in _usage(connection, chosen):
        async for row in (await connection.stream(query, values | {"limit": None})).mappings():
            yield row


async def currency(connection: AsyncConnection) -> str | None:
    """The currency of all rates; None if there are none."""
    return (await connection.execute(sa.select(tables.rate.c.currency).limit(1))).scalar_one_or_none()


async def priced_rollups(connection: AsyncConnection, keys: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Those rows of `rollup_hour` that there are of its `keys`, each with its cost; that is None without a rate."""
    priced, hours = _priced(), _rollup.c
    cost = _cost(priced, hours.gpu_type, *(hours[name] for name in _SUMS)).label("cost")
    at_that_time = sa.and_(hours.hour >= priced.c.valid_from, hours.hour < priced.c.valid_until)
    query = (
        sa.select(_rollup, cost)
        .select_from(_rollup.outerjoin(priced, at_that_time))
        .where(sa.tuple_(*_rollup.primary_key).in_(list(keys)))
    )
    return list((await connection.execute(query)).mappings().all())


class Used(NamedTuple):
    """What counts against budgets, in their units; the cost in millionths, rounded up."""

    gpu_seconds: int
    cpu_milli_seconds: int
    cost_micro: int


NOTHING_USED = Used(0, 0, 0)
# Which of them each budget is of.
USED = {"gpu_hours": "gpu_seconds", "cpu_hours": "cpu_milli_seconds", "cost": "cost_micro"}


async def hours_of_use(connection: AsyncConnection, begin: datetime, username: str) -> list[tuple[datetime, Used]]:
    """The hours since `begin` (a whole hour) in which a user used something, oldest first; cost rounded up."""
    priced = _priced()
    source, within = _hours(begin)
    hours = source.c
    cost = _cost(priced, hours.gpu_type, *(hours[name] for name in _SUMS))
    query = (
        sa.select(
            hours.hour,
            _whole(hours.gpu_seconds),
            _whole(hours.cpu_milli_seconds),
            sa.cast(sa.func.ceil(sa.func.coalesce(sa.func.sum(cost), 0)), sa.BigInteger),
        )
        .select_from(
            source.outerjoin(priced, sa.and_(hours.hour >= priced.c.valid_from, hours.hour < priced.c.valid_until))
        )
        .where(within, hours.username == username)
        .group_by(hours.hour)
        .order_by(hours.hour)
    )
    return [(hour, Used(*used)) for hour, *used in (await connection.execute(query)).all()]


async def used_since(
    connection: AsyncConnection, now: datetime, windows: Iterable[tuple[str, datetime]], *, with_cost: bool
) -> dict[tuple[str, datetime], Used]:
    """What users have used up to `now` in windows that are (user name, begin); which have nothing are missing.

    An hour counts if any of it is within the window, as for `Budget.state`. The cost is 0 unless it is asked for.
    """
    names, begins = zip(*windows)
    window = sa.func.unnest(sa.literal(list(names), ARRAY(sa.Text)), sa.literal(list(begins), ARRAY(tables.Time)))
    window = window.table_valued("username", "since").render_derived()
    source = reports.usage_by_hour(now)
    hours = source.c
    within = sa.and_(hours.username == window.c.username, hours.hour > window.c.since - timedelta(hours=1))
    keys = [window.c.username, window.c.since]
    sums = [sa.func.sum(hours[name]).label(name) for name in _SUMS]
    if not with_cost:
        query = sa.select(*keys, *(_whole(hours[name]) for name in _SUMS[:2]), sa.literal(0))
        query = query.select_from(window.join(source, within)).group_by(*keys)
    else:
        # Adds integers first and multiplies few rows with rates.
        priced = _priced()
        rated = sa.and_(hours.hour >= priced.c.valid_from, hours.hour < priced.c.valid_until)
        parts = sa.select(*keys, hours.gpu_type, priced.c.valid_from, *sums)
        parts = parts.select_from(window.join(source, within).outerjoin(priced, rated))
        parts = parts.group_by(*keys, hours.gpu_type, priced.c.valid_from).subquery()
        cost = _cost(priced, parts.c.gpu_type, *(parts.c[name] for name in _SUMS))
        query = (
            sa.select(
                parts.c.username,
                parts.c.since,
                *(_whole(parts.c[name]) for name in _SUMS[:2]),
                sa.cast(sa.func.ceil(sa.func.coalesce(sa.func.sum(cost), 0)), sa.BigInteger),
            )
            .select_from(parts.outerjoin(priced, priced.c.valid_from == parts.c.valid_from))
            .group_by(parts.c.username, parts.c.since)
        )
    return {(name, begin): Used(*used) for name, begin, *used in (await connection.execute(query)).all()}


@dataclass(frozen=True)
class Open:
    """A pod that holds something."""

    pod_uid: str
    username: str
    servername: str
    kind: str
    gpu_type: str
    resources: Resources


async def open_allocations(connection: AsyncConnection) -> list[Open]:
    """What users' pods hold now."""
    held = _allocation.c
    query = sa.select(
        *(held.pod_uid, held.username, held.servername, held.kind, held.gpu_type),
        *(held.cpu_milli, held.memory_bytes, held.gpu),
    ).where(_held(), held.username != "")
    return [Open(*row[:5], Resources(*row[5:])) for row in (await connection.execute(query)).all()]
