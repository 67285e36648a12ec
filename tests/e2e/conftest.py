"""Fixtures of the end-to-end tests."""

from __future__ import annotations

import os

import pytest
from harness import Deployment


@pytest.fixture(scope="session", autouse=True)
def deployment() -> Deployment:
    """The lab. test_1_deploy.py deploys it from nothing; later tests use what it deployed, on this lab or another."""
    deployment = Deployment()
    if os.environ.get("GPUHUB_LAB_FROM"):
        deployment.load("deployed")
    return deployment


@pytest.fixture(scope="session")
def bare(deployment: Deployment) -> Deployment:
    """Hosts with nothing on them. Only for tests that come before anything is deployed."""
    deployment.lab("clean")
    deployment.lab("build")
    deployment.lab("up")
    deployment.lab("save", "bare")
    return deployment
