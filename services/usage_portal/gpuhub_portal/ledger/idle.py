"""A node's idle devices as a function of time. Pure.

The function is a list of pieces (since, until, level): until is None in the last one, level 0 has no piece. A level
below 0 counts devices that are held although the node does not offer them (any more).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

Piece = tuple[int, "int | None", int]


def shift(pieces: Iterable[Piece], changes: Iterable[Piece]) -> list[Piece]:
    """The function after adding each change's level between its times."""
    deltas: dict[int, int] = defaultdict(int)
    for since, until, level in [*pieces, *changes]:
        if until is not None and until <= since:
            continue
        deltas[since] += level
        if until is not None:
            deltas[until] -= level
    result: list[Piece] = []
    level, since = 0, None
    for at in sorted(at for at, delta in deltas.items() if delta):
        if level:
            result.append((since, at, level))
        level, since = level + deltas[at], at
    if level:
        result.append((since, None, level))
    return result


def final_level(pieces: Iterable[Piece]) -> int:
    """The level from the last change on."""
    return sum(level for _, until, level in pieces if until is None)
