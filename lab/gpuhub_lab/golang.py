"""Compiling the lab's own Go modules, with caches that outlive a change."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .cache import CACHE
from .process import LabError

# Where Go's own archive puts its commands. Shells that nobody has logged in to do not look there.
FOLDER = "/usr/local/go/bin"


def command() -> str | None:
    """Where the command go is."""
    return shutil.which("go") or shutil.which("go", path=FOLDER)


def go(source: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `go ARGUMENTS` in the module `source`; what it printed on both streams is its `stdout`."""
    program = command()
    if not program:
        raise LabError(f"go is neither in PATH nor in {FOLDER}; {source / 'go.mod'} names the version that is needed")
    caches = CACHE / "go"
    environment = {
        **os.environ, "CGO_ENABLED": "0", "GOCACHE": str(caches / "build"), "GOMODCACHE": str(caches / "mod"),
        "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false", "GOWORK": "off", "GOTOOLCHAIN": "local",
    }  # fmt: skip
    return subprocess.run(
        [program, *arguments], cwd=source, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
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
