"""What every bench_*.py shares: one JSON line, and an exit code that says whether the goal was met."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NoReturn


def report(name: str, ours: float, reference: float, goal: float) -> NoReturn:
    """Print {name, ours, reference, ratio, goal} and leave: 0 if ratio = reference / ours reaches `goal`, else 1.

    `ours` and `reference` have one unit, which `name` states; less is better.
    """
    ratio = reference / ours
    figures = {"ours": ours, "reference": reference, "ratio": ratio}
    rounded = {key: float(f"{figure:.3g}") for key, figure in figures.items()}
    print(json.dumps({"name": name, **rounded, "goal": goal}), flush=True)
    raise SystemExit(0 if ratio >= goal else 1)


def compare(
    name: str, ours: Callable[[], float], reference: Callable[[], float], goal: float, rounds: int = 2
) -> NoReturn:
    """Report the best of some rounds, taken in turns so that what else the machine does meets both sides."""
    pairs = [(ours(), reference()) for _round in range(rounds)]
    report(name, min(pair[0] for pair in pairs), min(pair[1] for pair in pairs), goal)
