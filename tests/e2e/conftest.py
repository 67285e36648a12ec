"""Fixtures of the end-to-end tests."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
from harness import HEAD, OUTPUT, WORKERS, Deployment, Play, wait_for
from playwright.sync_api import Error, Page
from site_deployment import ADDRESSES, EVERYTHING, FIREWALLD, fetch, firewalls_of_the_site, reaches


@pytest.fixture(scope="session", autouse=True)
def deployment() -> Deployment:
    """The lab. test_1_deploy.py deploys it from nothing; later tests use what it deployed, on this lab or another."""
    deployment = Deployment()
    if os.environ.get("GPUHUB_LAB_AS_IT_IS"):
        wait_for("everything runs", deployment.works)
    elif os.environ.get("GPUHUB_LAB_FROM"):
        deployment.load("deployed")
    return deployment


@pytest.fixture(scope="session")
def bare(deployment: Deployment) -> Deployment:
    """Hosts with nothing on them, not all of one release. Only for tests that come before anything is deployed."""
    deployment.lab("clean")
    deployment.lab("build")
    deployment.lab("up", "--os", f"{WORKERS[1]}=bookworm")
    deployment.lab("save", "bare")
    return deployment


@pytest.fixture(scope="session")
def guarded(deployment: Deployment) -> Iterator[dict[str, str]]:
    """The deployed lab with firewalls of the site turned on; what they hold."""
    with firewalls_of_the_site(deployment) as held:
        yield held


@pytest.fixture(scope="session")
def site(guarded: dict[str, str], deployment: Deployment) -> Play:
    """One run of site.yml there, with HTTPS and a settings file; the control is that nodes and pods reached none."""
    assert not reaches(deployment, ADDRESSES[WORKERS[0]], 10250, HEAD)
    assert not reaches(deployment, ADDRESSES[FIREWALLD], 10250, HEAD)
    assert not fetch(deployment, WORKERS[0], f"http://talk-{WORKERS[1]}")
    return deployment.play(*EVERYTHING)


def pytest_exception_interact(node: pytest.Item, report: pytest.TestReport) -> None:
    """What a browser shows when a test fails: its address and text beside the failure, a picture in tests/output."""
    for name, page in _pages(getattr(node, "funcargs", {})):
        try:
            words = re.sub(r"\W+", "-", f"{node.name}-{name}")
            page.screenshot(path=OUTPUT / f"failed-{words}.png")
            shown = page.inner_text("body", timeout=5000)
        except Error as error:
            shown = str(error)
        report.sections.append((f"page {name}", f"{page.url}\n{shown[:2000]}"))


def _pages(fixtures: dict[str, object]) -> Iterator[tuple[str, Page]]:
    for name, value in fixtures.items():
        if isinstance(value, Page):
            yield name, value
        elif isinstance(value, dict):
            yield from _pages(value)
