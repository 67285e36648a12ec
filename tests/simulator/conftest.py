"""A PostgreSQL with the portal's tables, and the seed of this run."""

from __future__ import annotations

import pytest
import sample
import service_imports  # noqa: F401
from postgres import Cluster


@pytest.fixture(scope="session")
def cluster():
    from simulator.__main__ import create_tables

    with Cluster() as cluster:
        create_tables(cluster)
        yield cluster


@pytest.fixture(scope="session")
def seed() -> int:
    """GPUHUB_SEED repeats a run."""
    print(f"GPUHUB_SEED={sample.SEED}")
    return sample.SEED
