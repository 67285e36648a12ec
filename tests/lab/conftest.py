"""Fixtures of the lab's own tests."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from microk8s_hosts import COMMON, HEAD, HOSTS, WORKER


@pytest.fixture(scope="session")
def hosts() -> Iterator[None]:
    """Two bare hosts with the snaps and the bootstrap images on their disks."""
    HOSTS.lab("clean")
    HOSTS.lab("up", "--workers", "1")

    def deliver(host: str) -> None:
        HOSTS.deliver(host)
        HOSTS.run(host, f"touch {COMMON}/sideload/.half.tar")

    with ThreadPoolExecutor() as pool:
        list(pool.map(deliver, (HEAD, WORKER)))
    yield
    HOSTS.lab("clean")
