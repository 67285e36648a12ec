"""YAML as a tree of texts with the line of each entry, for files whose readers name lines. Pure; needs no YAML library.

The library is its callers': they give a function that composes nodes, `functools.partial(yaml.compose,
Loader=yaml.SafeLoader)`. Scalars stay texts as they are written, so that 0.1 is exact, 1e3 is no name, a group may be
called `no`, and the reader of a value decides what it means; only nothing (`key:`, `~`, `null`) is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, Union

Path = tuple[Union[str, int], ...]
Tree = Union[None, str, list[Any], dict[str, Any]]

_PREFIX = "tag:yaml.org,2002:"
_PLAIN = {_PREFIX + name for name in ("str", "int", "float", "bool", "timestamp", "merge", "value")}
_NULL = _PREFIX + "null"
# More than any file that people write; what is deeper or longer is meant to hurt.
DEEPEST = 20
LONGEST = 4 * 2**20


class LocatedTreeError(Exception):
    """A text that cannot be read; the message names the line where that is known."""


def read(source: str, compose: Callable[[str], Any]) -> tuple[Tree, dict[Path, int]]:
    """Return the tree of a YAML document, and for the path of each entry its line, counted from 1.

    A path is made of keys and, within lists, of positions from 0: `("groups", "vision", "budgets", 0)`. Refused are
    keys that are there twice, aliases and merges (which would let a short text mean a huge tree), and tags that are
    not those of plain data. Raises LocatedTreeError.
    """
    if len(source) > LONGEST:
        raise LocatedTreeError(f"has {len(source)} characters; at most {LONGEST} are read")
    try:
        root = compose(source)
    except RecursionError:
        raise _too_deep("") from None
    except Exception as error:
        # What YAML libraries raise for texts has the place and the problem as attributes; all else is not ours.
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        if not hasattr(error, "problem_mark") and type(error).__name__ != "ReaderError":
            raise
        place = f"line {mark.line + 1}: " if mark else ""
        raise LocatedTreeError(f"{place}not YAML: {problem or getattr(error, 'reason', error)}") from error
    lines: dict[Path, int] = {}
    tree = None if root is None else _Reader(lines).tree(root, ())
    return tree, lines


def _too_deep(place: str) -> LocatedTreeError:
    return LocatedTreeError(f"{place}entries are within each other more than {DEEPEST} times")


class _Reader:
    """Turns nodes into a tree, each node once."""

    def __init__(self, lines: dict[Path, int]) -> None:
        self._lines = lines
        self._seen: set[int] = set()

    def tree(self, node: Any, path: Path) -> Tree:
        place = f"line {node.start_mark.line + 1}: "
        if id(node) in self._seen:
            raise LocatedTreeError(f"{place}an alias refers to this; write the entry out where it is used")
        self._seen.add(id(node))
        if len(path) > DEEPEST:
            raise _too_deep(place)
        if node.tag == _NULL:
            return None
        if node.tag in _PLAIN:
            return node.value
        if node.tag == f"{_PREFIX}seq":
            return [self._entry(item, (*path, number), item) for number, item in enumerate(node.value)]
        if node.tag == f"{_PREFIX}map":
            return self._mapping(node, path)
        raise LocatedTreeError(f"{place}the tag {ascii(node.tag)[1:-1]} is not known; remove it")

    def _entry(self, node: Any, path: Path, where: Any) -> Tree:
        self._lines[path] = where.start_mark.line + 1
        return self.tree(node, path)

    def _mapping(self, node: Any, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in node.value:
            place = f"line {key.start_mark.line + 1}: "
            if not isinstance(key.value, str) or key.tag not in (*_PLAIN, _NULL):
                raise LocatedTreeError(f"{place}a key is no text; write a name and a colon")
            if key.value in result:
                first = self._lines[(*path, key.value)]
                raise LocatedTreeError(f"{place}{ascii(key.value)[1:-1]} is there already, in line {first}; remove one")
            result[key.value] = self._entry(value, (*path, key.value), key)
        return result


def at(lines: Mapping[Path, int], path: Path) -> int:
    """Return the line of an entry, or of the nearest one around it; 0 where none is known."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 0)
