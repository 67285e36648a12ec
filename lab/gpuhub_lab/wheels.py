"""Wheels: pip's downloads for the images, and artefact `wheels`, those of the head's private Python environment."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from . import catalogue
from .cache import REPOSITORY, artefact
from .process import LabError
from .pypi import pip

REQUIREMENTS = REPOSITORY / "vars" / "head-requirements.txt"
# Their wheels hold machine code. Of everything else the pure wheel is taken, even where a compiled one exists
# (charset-normalizer), so that one file serves every interpreter.
COMPILED = frozenset({"cffi", "cryptography", "pyyaml"})
# The oldest glibc first: pip prefers the platform that is named first. RHEL 8, the oldest host, has 2.28.
PLATFORMS = ("manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in range(18, 29)))


def canonical(name: str) -> str:
    """A distribution's name as package indexes compare it: PyYAML -> pyyaml, jaraco.text -> jaraco-text."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(requirements: Path) -> dict[str, str]:
    """The file's pins, canonical name -> version. A line that is not `name==version` is an error."""
    found = {}
    for number, line in enumerate(requirements.read_text().splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        name, separator, version = text.partition("==")
        if not separator or not re.fullmatch(r"[0-9A-Za-z.!+-]+", version):
            raise LabError(f"{requirements}:{number}: '{text}' is not of the form name==version")
        found[canonical(name)] = version
    return found


def download(requirements: Iterable[str], folder: Path, *tags: str) -> None:
    """Download exactly `requirements` (name==version), without dependencies, for an interpreter given as pip options.

    What an index has only as source arrives as source: add `--only-binary=:all:` to refuse it.
    """
    pip("download", "--quiet", "--no-deps", "--dest", folder, *tags, *requirements)


def for_interpreter(version: str) -> list[str]:
    """pip's options that choose wheels for CPython `version` on Linux, whatever interpreter pip itself runs on."""
    # Some releases exclude 3.9.0 and 3.9.1, which is what a bare "3.9" would stand for.
    full = f"{version}.18" if version == "3.9" else version
    return ["--implementation", "cp", "--python-version", full, *(f"--platform={name}" for name in PLATFORMS)]


def build() -> Path:
    """Folder with the wheels of vars/head-requirements.txt for each of the catalogue's `python.interpreters`."""
    python = catalogue.load()["python"]
    interpreters = sorted(python["interpreters"], key=lambda version: tuple(map(int, version.split("."))))
    pinned = pins(REQUIREMENTS)
    for requirement in python["requirements"]:
        name, _, version = requirement.partition("==")
        if pinned.get(canonical(name)) != version:
            raise LabError(
                f"{catalogue.PATH}: python.requirements asks for {requirement}, {REQUIREMENTS} pins "
                f"{pinned.get(canonical(name)) or 'nothing'}: make them agree"
            )

    def fetch(folder: Path) -> None:
        pure = [f"{name}=={version}" for name, version in pinned.items() if name not in COMPILED]
        compiled = [f"{name}=={version}" for name, version in pinned.items() if name in COMPILED]
        oldest = for_interpreter(interpreters[0])[3]
        download(
            pure,
            folder,
            "--only-binary=:all:",
            "--implementation",
            "py",
            "--abi",
            "none",
            "--platform",
            "any",
            "--python-version",
            oldest,
        )
        for version in interpreters:
            download(compiled, folder, "--only-binary=:all:", *for_interpreter(version))

    return artefact("wheels", [REQUIREMENTS, Path(__file__), " ".join(interpreters)], fetch)
