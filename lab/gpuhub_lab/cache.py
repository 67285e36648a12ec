"""Artefacts of the lab, built once per state of their inputs and kept outside the tree."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

LAB = Path(__file__).resolve().parent.parent
REPOSITORY = LAB.parent
CACHE = Path(os.environ.get("GPUHUB_LAB_CACHE") or Path.home() / ".cache" / "gpuhub-lab")


def say(text: str) -> None:
    """Print one line of progress at once."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


def _files(path: Path) -> Iterable[Path]:
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return [path]


def fingerprint(inputs: Iterable[Path | str]) -> str:
    """Hash of inputs: a Path stands for its name, mode and content (a folder for all its files), a str for itself."""
    digest = hashlib.sha256()
    for item in inputs:
        if isinstance(item, str):
            digest.update(b"text\0" + item.encode() + b"\0")
            continue
        for file in _files(item):
            executable = b"x" if os.access(file, os.X_OK) else b"-"
            name = file.relative_to(item.parent).as_posix().encode()
            digest.update(b"file\0" + name + b"\0" + executable + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def artefact(name: str, inputs: Iterable[Path | str], build: Callable[[Path], None]) -> Path:
    """Return the folder of artefact `name` for these inputs; `build(folder)` fills it if it does not exist yet.

    A build that is killed leaves nothing that looks finished: it works in a folder of its own, which is renamed
    when it is whole. Two processes that want the same artefact wait for each other. `CACHE/<name>` then links to it
    and older ones are removed, but for the two newest and those that are pinned.
    """
    builds = CACHE / "builds"
    builds.mkdir(parents=True, exist_ok=True)
    folder = builds / f"{name}-{fingerprint(inputs)}"
    with (builds / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            started = time.monotonic()
            say(f"building {name}")
            partial = builds / f".{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            build(partial)
            partial.rename(folder)
            say(f"built {name} in {time.monotonic() - started:.0f} s")
        link, fresh = CACHE / name, builds / f".{name}.link"
        if not link.is_symlink() or link.readlink() != folder:
            # In one step: somebody may be reading by it.
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(folder)
            fresh.rename(link)
        os.utime(folder)
        pinned = {path.name for path in _pins().glob("*/*")}
        for old in sorted(builds.glob(f"{name}-????????????????"), key=lambda p: p.stat().st_mtime)[:-2]:
            if old.name not in pinned:
                shutil.rmtree(old, ignore_errors=True)
    return folder


def _pins() -> Path:
    return CACHE / "builds" / ".pins"


def pin(folder: Path, holder: str) -> None:
    """Keep the finished artefact `folder` although newer ones are built, until its holder lets go of all it has."""
    file = _pins() / holder / folder.name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


def unpin(holder: str) -> None:
    """Let go of everything that `holder` has pinned."""
    shutil.rmtree(_pins() / holder, ignore_errors=True)
