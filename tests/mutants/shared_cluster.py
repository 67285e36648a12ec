"""A pytest plugin: tests get a database in a PostgreSQL that runs, instead of a PostgreSQL each."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import postgres
import psycopg

_NUMBERS = itertools.count()


class SharedCluster(postgres.Cluster):
    """Looks like a cluster, and is a database of GPUHUB_CLUSTER."""

    def __enter__(self) -> SharedCluster:
        self._folder = Path(os.environ["GPUHUB_CLUSTER"])
        self._name = f"mutant_{os.getpid()}_{next(_NUMBERS)}"
        self._administer(f"CREATE DATABASE {self._name}")
        return self

    def __exit__(self, *_: object) -> None:
        self._administer(f"DROP DATABASE {self._name} WITH (FORCE)")

    def _administer(self, statement: str) -> None:
        with psycopg.connect(super().dsn(), autocommit=True) as connection:
            connection.execute(statement)

    def dsn(self, database: str = "") -> str:
        return super().dsn(database or self._name)

    def url(self, database: str = "") -> str:
        return super().url(database or self._name)


postgres.Cluster = SharedCluster
