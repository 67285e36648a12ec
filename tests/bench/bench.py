"""What every bench_*.py shares: JSON lines, and an exit code that says whether the goals were met."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NoReturn


def line(name: str, ours: float, reference: float, goal: float) -> bool:
    """Print {name, ours, reference, ratio, goal}; return whether ratio = reference / ours reaches `goal`.

    `ours` and `reference` have one unit, which `name` states; less is better.
    """
    ratio = reference / ours
    figures = {"ours": ours, "reference": reference, "ratio": ratio}
    rounded = {key: float(f"{figure:.3g}") for key, figure in figures.items()}
    print(json.dumps({"name": name, **rounded, "goal": goal}), flush=True)
    return ratio >= goal


def line_of_none(name: str, ours: float, reference: float) -> bool:
    """As `line`, where ours has to be 0: there is no ratio. A reference of 0 proves nothing and is a failure, too."""
    print(json.dumps({"name": name, "ours": ours, "reference": reference, "ratio": None, "goal": None}), flush=True)
    return ours == 0 < reference


def leave(*met: bool) -> NoReturn:
    """Exit: 0 if all goals were met, else 1."""
    raise SystemExit(0 if all(met) else 1)


def report(name: str, ours: float, reference: float, goal: float) -> NoReturn:
    """Print one line and leave."""
    leave(line(name, ours, reference, goal))


def compare(
    name: str, ours: Callable[[], float], reference: Callable[[], float], goal: float, rounds: int = 2
) -> NoReturn:
    """Report the best of some rounds, taken in turns so that what else the machine does meets both sides."""
    pairs = [(ours(), reference()) for _round in range(rounds)]
    report(name, min(pair[0] for pair in pairs), min(pair[1] for pair in pairs), goal)
