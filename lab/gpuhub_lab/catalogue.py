"""The project's catalogue of versions, as the lab reads it."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml

from .cache import REPOSITORY

PATH = REPOSITORY / "vars" / "catalogue.yml"


@cache
def load() -> dict[str, Any]:
    """The whole catalogue."""
    return yaml.safe_load(PATH.read_text())
