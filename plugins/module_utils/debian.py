"""Debian packages on a host: which are installed, and an archive of packages that apt can install from offline."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

#: What dpkg-query prints for `parse_status`: one package a line.
STATUS_FORMAT = "${Package}\\t${db:Status-Status}\\t${db:Status-Eflag}\\t${Provides}\\n"

_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")


class PackageError(Exception):
    """Packages cannot be installed; the message names them, what was said and the cure."""


class Deb(NamedTuple):
    """A package file: its name, its control fields as dpkg-deb prints them, ``sha256:<hex>`` and size in bytes."""

    file: str
    control: str
    digest: str
    size: int


def distribution(os_release: str) -> str:
    """``debian-13`` or ``ubuntu-24.04`` from the text of /etc/os-release, empty if it does not say."""
    fields = {}
    for line in os_release.splitlines():
        name, separator, value = line.strip().partition("=")
        if separator:
            fields[name] = value.strip("\"'")
    name, version = fields.get("ID", ""), fields.get("VERSION_ID", "")
    return f"{name}-{version}" if name and version else ""


def parse_status(text: str) -> dict[str, list[str]]:
    """Packages that are installed, configured and whole, each with what it provides.

    `text` is dpkg-query's output in STATUS_FORMAT.
    """
    whole: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, status, flag, provides = (line.split("\t", 3) + [""] * 3)[:4]
        # A package may be there for several architectures; one that is whole serves.
        if (status, flag) == ("installed", "ok"):
            whole[name] = [provided for group in alternatives(provides) for provided in group]
    return whole


def lacking(wanted: Iterable[str], whole: Iterable[str]) -> list[str]:
    """Wanted packages that are not installed, or not to the end, sorted."""
    return sorted(set(wanted) - set(whole))


def alternatives(relation: str) -> list[list[str]]:
    """Names in a field such as Depends: any one of each group satisfies it.

    Versions are left out: whether they fit is for apt to say.
    """
    groups = ([_NAME.match(option.strip()) for option in group.split("|")] for group in relation.split(","))
    return [found for group in groups if (found := [match[0] for match in group if match])]


def closure(
    wanted: Iterable[str], depends: Mapping[str, str], provides: Mapping[str, str], installed: Iterable[str]
) -> tuple[set[str], dict[str, str]]:
    """What a host needs for `wanted` out of the packages that there are.

    `depends` and `provides`: package -> that field of it. `installed`: names that the host has. Returns the packages,
    and what is neither there nor installed with the package that depends on it. A package that is there is taken even
    if the host has one of that name, perhaps an older one.
    """
    sources: dict[str, str] = {name: name for name in depends}
    for name, field in provides.items():
        for provided in (name for group in alternatives(field) for name in group):
            sources.setdefault(provided, name)
    present, needed, missing = set(installed), set(), {}
    left = [name for name in wanted if name in depends]
    while left:
        name = left.pop()
        if name in needed:
            continue
        needed.add(name)
        for group in alternatives(depends[name]):
            there = [sources[option] for option in group if option in sources]
            if there:
                left.append(there[0])
            elif not present.intersection(group):
                missing[" or ".join(group)] = name
    return needed, missing


def packages_index(debs: Iterable[Deb]) -> str:
    """The file ``Packages`` of a flat repository that holds these files."""
    paragraphs = []
    for deb in sorted(debs):
        place = f"Filename: ./{deb.file}\nSize: {deb.size}\nSHA256: {deb.digest.partition(':')[2]}\n"
        paragraphs.append(deb.control.strip("\n") + "\n" + place)
    return "\n".join(paragraphs)


def apt_options(folder: str) -> dict[str, str]:
    """Options with which apt knows the flat repository in `folder` and no other, and keeps its own state out of it."""
    return {
        "Dir::Etc::sourcelist": f"{folder}/sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        # Priorities of a site are about its own sources.
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::lists": f"{folder}/lists",
        "Dir::Cache": f"{folder}/cache",
        "Acquire::Languages": "none",
        # Its usual user may not enter the folder.
        "APT::Sandbox::User": "root",
        "Dpkg::Use-Pty": "0",
    }
