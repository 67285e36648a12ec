"""A copy of sessions and hourly usage in a MySQL or MariaDB of another system; docs/mysql.md says what its tables hold.

Triggers note for each row of the source in which transaction it was changed last. A transaction's number is given
when it begins to write, and transactions commit in any order; but one with a number below `pg_snapshot_xmin` is over,
and what it has changed is seen. So rows are taken in the order of those numbers, below that bound: none comes later
that belongs before one that was taken. A row that is changed again gets a higher number and is taken again.

How far it has come is kept in the target and written in the transaction that writes the rows, which are upserts. So
it can be killed anywhere, run twice at a time, or be set back with the target's backup.

Numbers of transactions mean something within one database cluster. If the source is another one than before, or was
set back, a new generation begins: everything is copied anew, and what was not is removed at the end.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from . import logs, queries, tables
from .database import Database, SchemaError, UnavailableError
from .settings import Settings, SettingsError, load, read_secret

_log = logging.getLogger(__name__)

# Of the target's tables; one that finds a higher one in the target leaves it alone.
VERSION = 1
_LONGEST_WAIT = 30.0
_PART = 10_000
SUMS = ("gpu_seconds", "cpu_milli_seconds", "memory_mib_seconds")


class TargetAwayError(UnavailableError):
    """The target cannot be reached, or does not let us in; the text says why and holds no secret."""


class TargetError(SchemaError):
    """The target's tables are not those of this version."""


class SyncSettings(BaseSettings):
    """Where the copy is, and how it is made."""

    model_config = SettingsConfigDict(env_prefix="USAGE_PORTAL_", hide_input_in_errors=True)

    mysql_url: SecretStr | None = None
    mysql_url_file: Path | None = None
    # Seconds between two looks for what has changed.
    mysql_interval_seconds: float = Field(default=30, gt=0, le=3600)
    # Rows of a transaction.
    mysql_batch: int = Field(default=500, ge=1, le=10_000)

    @model_validator(mode="after")
    def _complete(self) -> SyncSettings:
        if (self.mysql_url is None) == (self.mysql_url_file is None):
            raise ValueError("set either USAGE_PORTAL_MYSQL_URL or USAGE_PORTAL_MYSQL_URL_FILE")
        return self

    def target(self) -> URL:
        """The target's address with its driver; raises SettingsError."""
        if self.mysql_url is not None:
            text = self.mysql_url.get_secret_value()
        else:
            text = read_secret(self.mysql_url_file, "USAGE_PORTAL_MYSQL_URL_FILE")
        try:
            url = make_url(text)
        except ArgumentError:
            raise SettingsError("the MySQL URL is none; it reads mysql://user:password@host/name") from None
        if url.get_backend_name() not in ("mysql", "mariadb"):
            raise SettingsError(f"the target must be MySQL or MariaDB, but its URL begins with {url.drivername}:")
        return url.set(drivername=f"{url.get_backend_name()}+pymysql").update_query_dict({"charset": "utf8mb4"})


# --- the target ---

# No name is too long, and none equals another that differs in case, accents or blanks.
_TEXT = mysql.MEDIUMTEXT(charset="utf8mb4", collation="utf8mb4_bin")
_TIME = mysql.DATETIME(fsp=6)
_KEY = mysql.VARCHAR(64, charset="ascii", collation="ascii_bin")
_MONEY = mysql.DECIMAL(30, 6)
_TABLE = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mariadb_engine": "InnoDB"}
_TABLE["mariadb_charset"] = "utf8mb4"

_target = sa.MetaData()


def _text(name: str) -> sa.Column:
    return sa.Column(name, _TEXT, nullable=False)


def _own() -> tuple[sa.Column, sa.Column]:
    return sa.Column("generation", sa.Integer, nullable=False), sa.Column("synced_at", _TIME, nullable=False)


_PREFIX = {"mysql_length": {"username": 190}, "mariadb_length": {"username": 190}}

usage_session = sa.Table(
    "usage_session",
    _target,
    sa.Column("id", _KEY, primary_key=True),
    *map(_text, ("username", "group_name", "kind", "name", "source")),
    sa.Column("started_at", _TIME, nullable=False),
    sa.Column("ended_at", _TIME),
    _text("requests"),
    _text("nodes"),
    _text("gpu_types"),
    *(sa.Column(name, mysql.DECIMAL(38, 6), nullable=False) for name in SUMS),
    sa.Column("cost", _MONEY),
    sa.Column("currency", mysql.CHAR(3)),
    sa.Column("inferred", sa.Boolean, nullable=False),
    *_own(),
    sa.Index("usage_session_started_at", "started_at"),
    sa.Index("usage_session_username", "username", "started_at", **_PREFIX),
    **_TABLE,
)

usage_hour = sa.Table(
    "usage_hour",
    _target,
    # SHA-256 of the five columns behind it: together they are longer than a key can be.
    sa.Column("id", _KEY, primary_key=True),
    sa.Column("hour", mysql.DATETIME, nullable=False),
    *map(_text, ("username", "group_name", "kind", "gpu_type")),
    *(sa.Column(name, sa.BigInteger, nullable=False) for name in (*SUMS, "sessions")),
    sa.Column("cost", _MONEY),
    sa.Column("currency", mysql.CHAR(3)),
    *_own(),
    sa.Index("usage_hour_hour", "hour"),
    sa.Index("usage_hour_username", "username", "hour", **_PREFIX),
    **_TABLE,
)

# One row: how far the copy has come.
usage_sync = sa.Table(
    "usage_sync",
    _target,
    sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("position", _TEXT, nullable=False),
    sa.Column("synced_at", _TIME, nullable=False),
    **_TABLE,
)


@dataclass(frozen=True)
class Position:
    """How far the copy has come.

    `source` is the cluster that the numbers are of; `priced` whether there were rates, as the first ones may give a
    price to what was copied without. Rows of another generation than `swept` may be in the target until all is copied.
    """

    source: str = ""
    generation: int = 0
    swept: int = 0
    priced: bool = False
    # By feed: the number of the transaction and the key of the row that was taken last.
    taken: tuple[tuple[str, int, tuple[Any, ...]], ...] = ()

    def after(self, feed: str) -> tuple[int, tuple[Any, ...]] | None:
        """The last row that was taken; None before the first."""
        return next(((number, key) for name, number, key in self.taken if name == feed), None)

    def moved(self, feed: str, number: int, key: tuple[Any, ...]) -> Position:
        """The position behind a row."""
        written = tuple(part.isoformat() if isinstance(part, datetime) else part for part in key)
        others = tuple(entry for entry in self.taken if entry[0] != feed)
        return replace(self, taken=(*others, (feed, number, written)))

    def newest(self) -> int:
        """The highest number that was taken."""
        return max((number for _, number, _ in self.taken), default=0)

    def text(self) -> str:
        """For the target."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Position:
        """What `text` has written."""
        values = json.loads(text)
        taken = [(feed, number, tuple(key)) for feed, number, key in values.pop("taken")]
        return cls(**values, taken=tuple(taken))


@dataclass(frozen=True)
class Batch:
    """Rows of one of the target's tables, as they are now, and the ids of those that are no more."""

    table: sa.Table
    rows: Sequence[dict[str, Any]]
    gone: Sequence[str]


class Target:
    """The copy. Its methods block; all raise TargetAwayError where it cannot be reached."""

    def __init__(self, url: URL) -> None:
        self._engine = sa.create_engine(
            url,
            pool_size=1,
            pool_pre_ping=True,
            pool_recycle=600,
            hide_parameters=True,
            isolation_level="READ COMMITTED",
            connect_args={
                "connect_timeout": 10,
                "read_timeout": 60,
                "write_timeout": 60,
                # What does not fit is an error, and never cut.
                "init_command": "SET SESSION sql_mode = 'STRICT_ALL_TABLES', time_zone = '+00:00'",
            },
        )
        self._made = False

    def close(self) -> None:
        """Close the connection."""
        self._engine.dispose()

    def position(self) -> Position:
        """How far the copy has come; makes the tables where there are none. Raises TargetError."""
        with self._begin() as connection:
            if not self._made:
                _target.create_all(connection)
                first = mysql.insert(usage_sync).values(
                    id=1, version=VERSION, position=Position().text(), synced_at=_now()
                )
                connection.execute(first.prefix_with("IGNORE"))
                self._made = True
            return self._position(connection)

    def _position(self, connection: Connection, lock: bool = False) -> Position:
        query = sa.select(usage_sync.c.version, usage_sync.c.position).where(usage_sync.c.id == 1)
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
        if row is None:
            self._made = False
            raise TargetAwayError("the table usage_sync is empty; it is made anew")
        if row.version != VERSION:
            raise TargetError(f"the target's tables are of version {row.version}, this portal writes {VERSION}")
        return Position.read(row.position)

    def write(self, before: Position, after: Position, batch: Batch | None = None) -> bool:
        """Write rows together with the position behind them; False if somebody else has moved it from `before`."""
        with self._begin() as connection:
            if self._position(connection, lock=True) != before:
                return False
            now = _now()
            if batch is not None:
                own = {"generation": after.generation, "synced_at": now}
                if batch.rows:
                    self._upsert(connection, batch.table, [{**row, **own} for row in batch.rows])
                if batch.gone:
                    connection.execute(sa.delete(batch.table).where(batch.table.c.id.in_(batch.gone)))
            if after.swept != before.swept:
                for table in (usage_session, usage_hour):
                    self._sweep(connection, table, after.generation)
            connection.execute(sa.update(usage_sync).values(position=after.text(), synced_at=now))
        return True

    @staticmethod
    def _upsert(connection: Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
        insert = mysql.insert(table)
        values = {column.name: insert.inserted[column.name] for column in table.c if not column.primary_key}
        connection.execute(insert.on_duplicate_key_update(values), rows)

    @staticmethod
    def _sweep(connection: Connection, table: sa.Table, generation: int) -> None:
        """Remove what is of another generation; in parts, as no statement may take longer than the connection waits."""
        stale = sa.delete(table).where(table.c.generation != generation)
        part = stale.with_dialect_options(mysql_limit=_PART, mariadb_limit=_PART)
        while connection.execute(part).rowcount:
            pass

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except (OperationalError, InterfaceError) as error:
            raise TargetAwayError(f"the target is not available: {str(error.orig).splitlines()[0]}") from error


def _now() -> datetime:
    return _plain(datetime.now(UTC))


def _plain(time: datetime | None) -> Any:
    """A time as MySQL keeps it, in UTC."""
    return None if time is None else time.astimezone(UTC).replace(tzinfo=None)


def _decimal(value: Any) -> Decimal:
    return Decimal(value).quantize(Decimal("0.000001"), ROUND_HALF_UP)


def _money(micro: Any) -> Decimal | None:
    return None if micro is None else _decimal(Decimal(micro) / 1_000_000)


# --- the source ---

_CURRENT = sa.text("pg_current_xact_id()::text::bigint")
# All transactions below are over; from the other on none had begun.
_OLDEST = sa.text("pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
_NEXT = sa.text("pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
# Another cluster, a restored one, or other tables in it.
_SOURCE = sa.text(
    "SELECT concat_ws('/', system_identifier, timeline_id, 'session_change'::regclass::oid,"
    " (SELECT oid FROM pg_database WHERE datname = current_database()))"
    " FROM pg_control_system(), pg_control_checkpoint()"
)


class Feed:
    """One of the tables: what has changed, and what is to be copied of it."""

    def __init__(
        self,
        changes: sa.Table,
        table: sa.Table,
        read: Callable[[AsyncConnection, list[tuple[Any, ...]]], Awaitable[dict[tuple[Any, ...], dict[str, Any]]]],
    ) -> None:
        self.changes, self._table, self._read = changes, table, read
        self._key = list(changes.primary_key)

    async def take(
        self, connection: AsyncConnection, position: Position, currency: str | None, limit: int
    ) -> tuple[Batch, Position] | None:
        """The next rows and the position behind them; None if there are none."""
        name = self.changes.name
        order = (self.changes.c.changed, *self._key)
        query = sa.select(*order).where(self.changes.c.changed < _OLDEST).order_by(*order).limit(limit)
        after = position.after(name)
        if after is not None:
            values = zip((after[0], *after[1]), order, strict=True)
            query = query.where(sa.tuple_(*order) > sa.tuple_(*(sa.literal(value, c.type) for value, c in values)))
        changed = (await connection.execute(query)).all()
        if not changed:
            return None
        keys = [tuple(row[1:]) for row in changed]
        found = await self._read(connection, keys)
        rows = [{"id": _id(key), **row, "currency": currency} for key, row in found.items()]
        gone = [_id(key) for key in keys if key not in found]
        return Batch(self._table, rows, gone), position.moved(name, changed[-1].changed, keys[-1])


def _id(key: tuple[Any, ...]) -> str:
    """What a row is called in the target: a session by its own id, an hour by the digest of what it is of."""
    if len(key) == 1:
        return key[0]
    text = json.dumps([_plain(key[0]).isoformat(), *key[1:]], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


async def _sessions(connection: AsyncConnection, keys: list[tuple[Any, ...]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    rows = await queries.sessions_by_id(connection, [key[0] for key in keys])
    return {
        (row["id"],): {
            **{name: row[name] for name in ("username", "group_name", "kind", "name", "source")},
            "started_at": _plain(row["started_at"]),
            "ended_at": _plain(row["ended_at"]),
            **{name: json.dumps(row[name] or [], ensure_ascii=False) for name in ("nodes", "gpu_types")},
            "requests": json.dumps(row["requests"]),
            **{name: _decimal(row[name]) for name in SUMS},
            "cost": _money(row["cost"]),
            "inferred": row["inferred"],
        }
        for row in rows
    }


async def _hours(connection: AsyncConnection, keys: list[tuple[Any, ...]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    rows = await queries.priced_rollups(connection, keys)
    names = ("username", "group_name", "kind", "gpu_type")
    return {
        (row["hour"], *(row[name] for name in names)): {
            **{name: row[name] for name in (*names, *SUMS, "sessions")},
            "hour": _plain(row["hour"]),
            "cost": _money(row["cost"]),
        }
        for row in rows
    }


FEEDS = (Feed(tables.session_change, usage_session, _sessions), Feed(tables.rollup_change, usage_hour, _hours))


class Sync:
    """Copies batch by batch. Raises UnavailableError where a side is away; nothing is lost."""

    def __init__(self, database: Database, target: Target, limit: int) -> None:
        self._database, self._target, self._limit = database, target, limit

    async def renew(self) -> None:
        """Have the next step begin a new generation."""
        while True:
            position = await asyncio.to_thread(self._target.position)
            if await asyncio.to_thread(self._target.write, position, replace(position, source="")):
                return

    async def step(self) -> bool:
        """Copy at most one batch of each table; whether there may be more."""
        position = await asyncio.to_thread(self._target.position)
        batches = []
        async with self._database.connect() as connection:
            await connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            source = (await connection.execute(_SOURCE)).scalar_one()
            oldest = (await connection.execute(sa.select(_OLDEST))).scalar_one()
            currency = await queries.currency(connection)
            fits = (position.source, position.priced) == (source, currency is not None)
            # A source that was set back has not come to where the copy is.
            fits = fits and position.newest() < oldest
            after = position
            for feed in FEEDS if fits else ():
                taken = await feed.take(connection, after, currency, self._limit)
                if taken is not None:
                    batches.append(taken)
                    after = taken[1]
        if not fits:
            await self._begin_generation(position, source, currency is not None)
            return True
        for batch, behind in batches:
            if not await asyncio.to_thread(self._target.write, position, behind, batch):
                # Another process copies, too; go on from where it is.
                return True
            _log.info("%d rows of %s written, %d removed", len(batch.rows), batch.table.name, len(batch.gone))
            position = behind
        if not batches:
            # Also where nothing has changed: `synced_at` says until when the copy is complete.
            await asyncio.to_thread(self._target.write, position, replace(position, swept=position.generation))
        return bool(batches)

    async def _begin_generation(self, position: Position, source: str, priced: bool) -> None:
        _log.info("everything is copied, from source %s", source)
        async with self._database.begin() as connection:
            # Numbers that a dump of another cluster has brought, and that this one has not come to.
            for feed in FEEDS:
                changed = feed.changes.c.changed
                await connection.execute(sa.update(feed.changes).where(changed >= _NEXT).values(changed=_CURRENT))
        begun = Position(source, position.generation + 1, position.swept, priced)
        await asyncio.to_thread(self._target.write, position, begun)


async def _copy(sync: Sync, interval: float, *, once: bool, full: bool) -> None:
    wait = 1.0
    while True:
        try:
            if full:
                await sync.renew()
                full = False
            more = await sync.step()
            wait = 1.0
        except UnavailableError as error:
            if once:
                raise
            _log.warning("%s; the next try is in %.0f s", error, wait)
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
            continue
        if not more:
            if once:
                return
            await asyncio.sleep(interval)


async def _run(settings: Settings, chosen: SyncSettings, *, once: bool, full: bool) -> None:
    database, target = Database(settings.database(), pool_size=1), Target(chosen.target())
    try:
        sync = Sync(database, target, chosen.mysql_batch)
        await _copy(sync, chosen.mysql_interval_seconds, once=once, full=full)
    finally:
        target.close()
        await database.close()


def run(settings: Settings, *, once: bool, full: bool) -> None:
    """Copy until told to stop, or with `once` until all is copied; with `full` everything anew.

    Raises SettingsError and SchemaError, and with `once` UnavailableError.
    """
    chosen = load(SyncSettings)
    url = chosen.target()
    secrets = {url.password or "", url.render_as_string(hide_password=False)}
    logs.configure(settings.log_level, settings.secrets() | {text for text in secrets if len(text) >= 8})
    asyncio.run(_run(settings, chosen, once=once, full=full))
