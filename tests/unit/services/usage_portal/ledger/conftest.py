"""A database with the ledger's tables, empty for each test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
import pytest
import service_imports  # noqa: F401 - first
import sqlalchemy as sa
from gpuhub_portal.ledger import tables
from postgres import Cluster

NAMES = [table.name for table in tables.metadata.sorted_tables]


@pytest.fixture(scope="session")
def cluster():
    with Cluster() as cluster:
        engine = sa.create_engine(cluster.url())
        tables.metadata.create_all(engine)
        engine.dispose()
        yield cluster


@pytest.fixture
def database(cluster) -> Database:
    database = Database(cluster)
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        connection.execute(f"TRUNCATE {', '.join(NAMES)}")
    return database


class Database:
    """`run(action)` calls an async function with a connection of its own; `rows(table)` is what a table holds."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def run(self, *actions: Callable[[psycopg.AsyncConnection], Awaitable]):
        async def go():
            async with await psycopg.AsyncConnection.connect(self.cluster.dsn(), autocommit=True) as connection:
                result = None
                for action in actions:
                    result = await action(connection)
                return result

        return asyncio.run(go())

    def rows(self, query: str, *parameters: object) -> list[tuple]:
        """Rows of a query, times as seconds since 1970."""
        with psycopg.connect(self.cluster.dsn(), autocommit=True, options="-c timezone=UTC") as connection:
            rows = connection.execute(query, parameters).fetchall()
        return [tuple(int(v.timestamp()) if hasattr(v, "timestamp") else v for v in row) for row in rows]

    def dump(self) -> dict[str, list[tuple]]:
        """All that the ledger says, without what depends on when it was written."""
        columns = {
            "allocation": "*",
            "capacity": "*",
            "idle": "*",
            "session": "*",
            "rollup_hour": "*",
            "rollup_period": "*",
            "witness": "producer, event_id, applied_at IS NOT NULL",
        }
        return {name: sorted(self.rows(f"SELECT {what} FROM {name}"), key=repr) for name, what in columns.items()}
