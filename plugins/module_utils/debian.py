"""Debian packages on a host: which are installed, and an archive of packages that apt can install from offline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

#: What dpkg-query prints for `parse_status`: one package a line.
STATUS_FORMAT = "${Package}\\t${db:Status-Status}\\t${db:Status-Eflag}\\n"


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


def parse_status(text: str) -> dict[str, bool]:
    """Package -> whether it is installed, configured and whole, from dpkg-query's output in STATUS_FORMAT."""
    whole: dict[str, bool] = {}
    for line in text.splitlines():
        name, _, rest = line.partition("\t")
        # A package may be there for several architectures; one that is whole serves.
        whole[name] = whole.get(name, False) or rest.split("\t") == ["installed", "ok"]
    return whole


def lacking(wanted: Iterable[str], whole: Mapping[str, bool]) -> list[str]:
    """Wanted packages that are not installed, or not to the end, sorted."""
    return sorted({name for name in wanted if not whole.get(name)})


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
