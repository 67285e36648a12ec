"""User names and the names that are derived from them. Pure; the hub uses it too."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

# What a person may choose at sign-up: letters and digits, with single separators between them, at most 48 characters.
# Repeated separators would allow many names that look alike and are shortened alike.
SIGN_UP_PATTERN = r"\A(?=.{1,48}\Z)[a-z0-9]+(?:[._@+-][a-z0-9]+)*\Z"

# Users of the platform itself; nobody can sign up with such a name.
RESERVED_PREFIX = "gpuhub-"

_LONGEST = 48
_HASH_DIGITS = 20
_PLAIN = re.compile(rf"[a-z0-9](?:[a-z0-9-]{{0,{_LONGEST - 2}}}[a-z0-9])?")


def slug(name: str) -> str:
    """Return a name for a user's folder, claim and pod: a DNS label of at most 48 characters.

    A name that is such a label already stays as it is. Every other one becomes `<readable part>---<hash>`; 80 bits of
    hash, because people choose their names and must not be able to find one that ends in somebody else's folder.
    Different names never share a slug: `--` is not accepted in a name that stays as it is. The result holds no dot
    and no slash, so that it never leaves the folder that it is put in.
    """
    if _PLAIN.fullmatch(name) and "--" not in name:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    readable = readable[: _LONGEST - _HASH_DIGITS - 3].rstrip("-") or "x"
    return f"{readable}---{digest}"


def fault(name: Any) -> str:
    """Why nobody can have a name; empty where a person can."""
    if not isinstance(name, str):
        return "names are texts; write a number in quotes"
    if not re.match(SIGN_UP_PATTERN, name):
        return "names are made of lower-case letters and digits with single . _ @ + or - between, 48 at most"
    if name.startswith(RESERVED_PREFIX):
        return f"names that begin with {RESERVED_PREFIX} belong to the platform"
    return ""


def _shown(name: Any) -> str:
    """A name as it can be printed: hostile ones hold line ends, or are long."""
    return ascii(name) if len(str(name)) <= 60 else f"{ascii(name)[:40]}... ({len(str(name))} characters)"


def faults(names: Iterable[Any]) -> list[str]:
    """What is wrong with some users' names, by reason: names that nobody can have, and two that share a folder."""
    by_reason: dict[str, list[str]] = {}
    owners: dict[str, str] = {}
    for name in names:
        reason = fault(name)
        if not reason and owners.setdefault(slug(name), name) != name:
            reason = f"the folder {slug(name)} is that of {owners[slug(name)]}"
        if reason and _shown(name) not in by_reason.setdefault(reason, []):
            by_reason[reason].append(_shown(name))
    return [f"{', '.join(shown)}: {reason}" for reason, shown in by_reason.items()]
