"""What all tests share: the collection can be imported by its full name from this checkout."""

from __future__ import annotations

from pathlib import Path

from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

REPOSITORY = Path(__file__).resolve().parent.parent

_AnsibleCollectionFinder(paths=[str(REPOSITORY / "collections")])._install()
