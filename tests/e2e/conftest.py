"""Fixtures of the end-to-end tests."""

from __future__ import annotations

import pytest
from harness import Deployment


@pytest.fixture(scope="session")
def deployment() -> Deployment:
    """The lab. test_1_deploy.py, which runs first, deploys it from nothing."""
    return Deployment()
