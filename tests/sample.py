"""How much of what can be tested a run tests: all of it in a soak, else less, or a part that GPUHUB_SEED draws."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

SOAK = bool(os.environ.get("GPUHUB_SOAK"))
# One for the whole run, which conftest.py prints and whoever draws something else reads.
SEED = int(os.environ.get("GPUHUB_SEED") or random.SystemRandom().randrange(10**6))
os.environ["GPUHUB_SEED"] = str(SEED)


def size(usual: T, soak: T) -> T:
    """Choose between what a run takes and what a soak does."""
    return soak if SOAK else usual


def draw(cases: Sequence[T], number: int) -> list[T]:
    """Draw so many of the cases, in their order; a soak has them all."""
    if SOAK:
        return list(cases)
    chosen = random.Random(SEED).sample(range(len(cases)), number)
    return [cases[index] for index in sorted(chosen)]
