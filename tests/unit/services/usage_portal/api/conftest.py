"""Portals on one database, which each test finds empty."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import sample
from ansible_collections.gpuhub.platform.plugins.module_utils import core_archive
from portals import REPOSITORY, SERVICE, TABLES, ForkedPortal, Ledger, Portal, Postgres
from zygote import Zygote


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running cluster."""
    with Postgres() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def python_path(tmp_path_factory) -> str:
    """Where gpuhub_portal and gpuhub_core are, the latter as it is shipped."""
    archive = tmp_path_factory.mktemp("core") / core_archive.FILE_NAME
    archive.write_bytes(core_archive.pack(core_archive.members(REPOSITORY)))
    paths = [str(SERVICE), str(archive)]
    sys.path[:0] = [path for path in paths if path not in sys.path]
    return os.pathsep.join(paths)


@pytest.fixture(scope="session")
def portal_class(python_path) -> Iterator[Callable[..., Portal]]:
    """What makes a portal; in a soak each of its processes is a Python of its own, as it is deployed."""
    if sample.SOAK:
        yield Portal
        return
    with Zygote(python_path, ForkedPortal.modules) as zygote:
        yield functools.partial(ForkedPortal, zygote)


@pytest.fixture(scope="session")
def make_portal(postgres, python_path, portal_class, tmp_path_factory) -> Iterator[Callable[..., Portal]]:
    """A function that makes a portal on a database; all are stopped at the end."""
    made: list[Portal] = []

    def make(database: str, **settings: Any) -> Portal:
        portal = portal_class(tmp_path_factory.mktemp("portal"), python_path, postgres.url(database), **settings)
        made.append(portal)
        return portal

    yield make
    for portal in made:
        portal.stop()


@pytest.fixture(scope="session")
def migrated(postgres, python_path, tmp_path_factory) -> str:
    """A database with the schema of this version, to make others of. The command is the one that is deployed."""
    name = postgres.create("migrated")
    done = Portal(tmp_path_factory.mktemp("portal"), python_path, postgres.url(name)).command("migrate")
    assert done.returncode == 0, done.stderr
    return name


@pytest.fixture(scope="session")
def database(postgres, migrated) -> str:
    """A database with the schema of this version, for all tests that do not say otherwise."""
    return postgres.create("portal", migrated)


@pytest.fixture(scope="session")
def replicas(database, make_portal) -> list[Portal]:
    """Two portals on one database."""
    return [make_portal(database).start() for _ in range(2)]


@pytest.fixture
def ledger(postgres, database) -> Iterator[Ledger]:
    """A database with nothing in it but a collector that is up to date."""
    with postgres.connect(database) as connection:
        connection.execute(f"TRUNCATE {', '.join(TABLES)}")
        # Never back: portals know the policy by its version.
        connection.execute("UPDATE policy_state SET version = version + 1")
        ledger = Ledger(connection)
        ledger.followed()
        yield ledger


@pytest.fixture
def portal(replicas, ledger) -> Portal:
    """A portal whose database is empty."""
    return replicas[0]


@pytest.fixture
def admin(portal) -> Iterator[httpx.Client]:
    """A client with every right."""
    with portal.client() as client:
        yield client
