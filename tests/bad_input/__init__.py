"""Input that must be refused before anything changes, as rows of tables: tests/e2e/test_0_bad_input.py runs them.

To add rows, add a module to this package with lists `FAULTS` or `REFUSALS`; no other file needs to change.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import Deployment

Groups = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """Something wrong with a host. All faults are planted together and must be in the one report of a single play.

    `plant` and `undo` are shell scripts on `host`, or `arguments` are given to the play. `check` is the finding's name,
    `found` and `cure` are in its texts. `host` is its name in the inventory.
    """

    name: str
    host: str
    check: str
    found: str
    cure: str
    plant: str = ""
    undo: str = ""
    arguments: tuple[str, ...] = ()
    groups: Callable[[Groups], None] | None = None


@dataclass(frozen=True)
class Refusal:
    """Input that one run of site.yml refuses, saying everything in `says`: the value, where it is from and the cure.

    `groups` edits the children of the lab's inventory. `prepare` makes files in a folder of the test's own and returns
    further arguments of the play.
    """

    name: str
    says: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    groups: Callable[[Groups], None] | None = None
    prepare: Callable[[Deployment, Path], tuple[str, ...]] | None = None


def rows(kind: str) -> list[Any]:
    """All rows of a kind, `FAULTS` or `REFUSALS`, of all modules of this package in the order of their names."""
    modules = (importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    return [row for module in modules for row in getattr(module, kind, ())]
