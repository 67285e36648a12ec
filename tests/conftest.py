"""What all tests share: the collection can be imported by its full name from this checkout, and a seed is printed."""

from __future__ import annotations

from pathlib import Path

import sample
from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

REPOSITORY = Path(__file__).resolve().parent.parent

_AnsibleCollectionFinder(paths=[str(REPOSITORY / "collections")])._install()


def pytest_report_header() -> str:
    """Say what repeats the run."""
    return f"GPUHUB_SEED={sample.SEED}"
