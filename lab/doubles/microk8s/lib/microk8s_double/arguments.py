"""The files in args/: one `--key=value` or `--key value` a line, as a shell would read them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from .snapenv import ARGS, expand, write


def read(name: str) -> list[str]:
    """The words of a file, variables replaced."""
    return [expand(word) for word in shlex.split((ARGS / name).read_text(), comments=True)]


def _key(line: str) -> str:
    return line.strip().replace("=", " ").split(" ")[0]


def get(name: str, key: str) -> str:
    """Value of one argument, "" if it is not there."""
    path = ARGS / name
    for line in path.read_text().splitlines() if path.exists() else []:
        if _key(line) == key:
            return expand("".join(shlex.split(line.strip()[len(key) + 1 :])))
    return ""


def update(name: str, changes: Mapping[str, str | None]) -> bool:
    """Set arguments, delete those whose value is None; True if the file has changed."""
    path = ARGS / name
    before = path.read_text() if path.exists() else ""
    pending = dict(changes)
    lines = []
    for line in before.splitlines():
        key = _key(line)
        if key not in changes:
            lines.append(line)
        elif changes[key] is not None and key in pending:
            lines.append(f"{key}={pending.pop(key)}")
    lines += [f"{key}={value}" for key, value in pending.items() if value is not None]
    after = "\n".join(lines) + "\n"
    if after != before:
        write(path, after)
    return after != before
