"""The connection to PostgreSQL, and the refusal to work on a schema of another version."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from .ledger import periods

_log = logging.getLogger(__name__)

# Held by `migrate`, so that two of them do not run at once.
_MIGRATION_LOCK = 4_201_965
_MIGRATIONS = Path(__file__).parent / "migrations"


class SchemaError(Exception):
    """The database's schema is not that of this version of the portal; the text says which, and what to do."""


class NewerSchemaError(SchemaError):
    """The schema is of a later version; no migration of this one helps."""


class UnavailableError(Exception):
    """The database cannot be reached, is full, or has no connection free."""


def _alembic(url: URL) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["url"] = url
    return config


def check_schema(connection: Connection) -> None:
    """Raise SchemaError unless every migration of this version, and no other, has been run."""
    scripts = ScriptDirectory(str(_MIGRATIONS))
    found = set(MigrationContext.configure(connection).get_current_heads())
    wanted = set(scripts.get_heads())
    if found == wanted:
        return
    known = {script.revision for script in scripts.walk_revisions()}
    if found - known:
        raise NewerSchemaError(
            f"the database's schema is newer than this portal: revision {', '.join(sorted(found - known))} is unknown,"
            f" the newest known is {', '.join(sorted(wanted))}; run the newer portal, or restore the backup of before"
        )
    raise SchemaError(
        f"the database's schema is outdated: revision {', '.join(sorted(found)) or 'none'}, this portal needs"
        f" {', '.join(sorted(wanted))}; run `python -m gpuhub_portal migrate` first"
    )


def migrate(url: URL, time_zone: str = "UTC") -> None:
    """Bring the schema to this version, and the ledger's days and months to a time zone.

    What has been done already is not done again. Raises NewerSchemaError, and UnavailableError.
    """
    engine = sa.create_engine(url, hide_parameters=True, connect_args={"connect_timeout": 10})
    try:
        with _translated(), engine.connect() as guard:
            guard.execute(sa.select(sa.func.pg_advisory_lock(_MIGRATION_LOCK)))
            try:
                check_schema(guard)
            except NewerSchemaError:
                raise
            except SchemaError:
                command.upgrade(_alembic(url), "heads")
            with engine.connect() as connection:
                periods.set_calendar(connection.connection.driver_connection, time_zone)
    finally:
        engine.dispose()


class Database:
    """A pool of connections. Everything that fails for want of a database raises UnavailableError."""

    def __init__(self, url: URL, *, pool_size: int = 10, pool_timeout: float = 10) -> None:
        self.engine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=pool_timeout,
            # After a restart of the database the first request gets a new connection instead of an error.
            pool_pre_ping=True,
            # Statements in logs show no values.
            hide_parameters=True,
            connect_args={
                "connect_timeout": 5,
                "tcp_user_timeout": 15_000,
                "application_name": "usage-portal",
                # Statements here are short; workers and compiled code take longer to begin than they do.
                "options": "-c TimeZone=UTC -c statement_timeout=30s -c lock_timeout=10s"
                " -c idle_in_transaction_session_timeout=60s -c jit=off -c max_parallel_workers_per_gather=0",
            },
        )
        self._schema_checked = False
        self._schema_lock = asyncio.Lock()

    async def close(self) -> None:
        """Close all connections."""
        await self.engine.dispose()

    async def check(self) -> None:
        """Raise UnavailableError, or SchemaError; a schema that was right once is believed."""
        async with self.connect():
            pass

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """A connection for reading; what is written on it is rolled back."""
        with _translated():
            async with self.engine.connect() as connection:
                await self._ensure_schema(connection)
                yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """A connection for reading; all statements on it see what was committed at the first."""
        async with self.connect() as connection:
            # Without a statement of its own: it is a part of BEGIN.
            yield await connection.execution_options(isolation_level="REPEATABLE READ")

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is committed at the end, READ COMMITTED: each statement sees what is committed by then."""
        with _translated():
            async with self.engine.connect() as connection:
                await self._ensure_schema(connection)
                async with connection.begin():
                    yield connection

    async def _ensure_schema(self, connection: AsyncConnection) -> None:
        if self._schema_checked:
            return
        async with self._schema_lock:
            await connection.run_sync(check_schema)
            await connection.rollback()
            self._schema_checked = True


@contextmanager
def _translated() -> Iterator[None]:
    """Raise UnavailableError for what a database that comes back will not do again."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeoutError) as error:
        _log.warning("the database is not available: %s", str(error).splitlines()[0])
        raise UnavailableError("the database is not available") from error
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise UnavailableError("the connection to the database was lost") from error
