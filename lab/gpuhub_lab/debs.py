"""Debian packages for hosts and images, downloaded by this machine's apt; artefact `debs`: those of the bundle."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

from . import template
from .cache import artefact
from .process import LabError

# What roles of the product install on hosts.
PACKAGES = ("nginx",)


def download(packages: Iterable[str], status: bytes, folder: Path) -> None:
    """Put into `folder` the files of `packages` and of what they need beyond the package database `status`."""
    state = folder / ".state"
    for path in (folder / "partial", state / "lists/partial"):
        path.mkdir(parents=True)
    (state / "status").write_bytes(status)
    (state / "sources.list").write_text(source() + "\n")
    # apt of this machine with lists, sources and a package database of our own.
    options = {
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::State::lists": state / "lists",
        "Dir::State::extended_states": state / "extended",
        "Dir::Cache": state,
        "Dir::Cache::archives": folder,
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferences": "-",
        "Dir::Etc::preferencesparts": "-",
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items())]
    for arguments in (["update"], ["install", "--download-only", "--yes", "--no-install-recommends", *packages]):
        done = subprocess.run([*apt, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise LabError(f"apt-get {arguments[0]} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    shutil.rmtree(state)
    shutil.rmtree(folder / "partial")
    (folder / "lock").unlink(missing_ok=True)


def source() -> str:
    """sources.list line for the lab's suite from the mirror that this machine's apt uses."""
    mirror = template.mirror()
    signed = f"[signed-by={mirror.keyring}] " if mirror.keyring else ""
    return f"deb {signed}{mirror.uri} {template.SUITE} main"


def fields(file: Path) -> dict[str, str]:
    """What the bundle's manifest says of a package file: name, version, architecture, depends, provides."""
    names = {"name": "Package", "version": "Version", "architecture": "Architecture", "provides": "Provides"}
    found = {}
    for name, field in {**names, "depends": "Depends", "pre": "Pre-Depends"}.items():
        asked = subprocess.run(["dpkg-deb", "--field", file, field], check=True, capture_output=True, text=True)
        found[name] = " ".join(asked.stdout.split())
    found["depends"] = ", ".join(text for text in (found.pop("pre"), found["depends"]) if text)
    return {name: text for name, text in found.items() if text}


def build() -> Path:
    """Folder with the files of PACKAGES and of what they need beyond the root file system of the lab's hosts."""
    debian = template.debian()

    def fetch(folder: Path) -> None:
        with tarfile.open(debian / "root.tar") as root:
            status = root.extractfile("./var/lib/dpkg/status").read()
        download(PACKAGES, status, folder)

    return artefact("debs", [" ".join(PACKAGES), debian.name, inspect.getsource(download)], fetch)
