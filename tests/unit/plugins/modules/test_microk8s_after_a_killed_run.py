"""What a killed run has left at work on a host, or half done, and what the next run makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import microk8s
from ansible_collections.gpuhub.platform.plugins.modules import microk8s_join

from .runner import run

INVITATION = json.dumps({"token": f"{'0' * 32}/0123456789ab", "urls": ["10.0.0.1:25000/x"]})


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host's commands in `bin`, MicroK8s' locks in `locks`, and a `log` of the commands that changed something."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "locks").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(microk8s, "COMMAND", f"{tmp_path}/bin/microk8s")
    monkeypatch.setattr(microk8s_join, "LOCKS", tmp_path / "locks")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    command(tmp_path, "microk8s", "echo $1 >> log; touch locks/clustered.lock")
    command(tmp_path, "pgrep", "exit 1")
    return tmp_path


def command(host: Path, name: str, script: str) -> None:
    path = host / "bin" / name
    path.write_text(f"#!/bin/sh\ncd {host}\n{script}\n")
    path.chmod(0o755)


def log(host: Path) -> list[str]:
    return (host / "log").read_text().split() if (host / "log").exists() else []


@pytest.mark.parametrize(
    ("locks", "joins"),
    [
        ([], True),
        (["clustered.lock"], False),
        (["join-in-progress"], True),
        # Killed after MicroK8s called the host a worker, before the services ran as one.
        (["clustered.lock", "join-in-progress"], True),
    ],
)
def test_a_join_that_did_not_come_to_its_end_is_done_again(host, locks, joins):
    for name in locks:
        (host / "locks" / name).touch()
    assert microk8s.has_joined(host / "locks") is not joins
    assert run("microk8s_join", head="10.0.0.1", invitation=INVITATION)["changed"] is joins
    assert log(host) == (["join"] if joins else [])


def test_a_join_that_is_still_at_work_is_waited_for(host):
    """Its end is found at the third look."""
    (host / "locks/join-in-progress").touch()
    end = "rm locks/join-in-progress; touch locks/clustered.lock; exit 1"
    command(host, "pgrep", f"echo look >> log; [ $(grep -c look log) -lt 3 ] || {{ {end}; }}")
    assert not run("microk8s_join", head="10.0.0.1", invitation=INVITATION)["changed"]
    assert log(host) == ["look"] * 3


def test_a_join_that_never_ends_is_said(host):
    command(host, "pgrep", "exit 0")
    refused = run("microk8s_join", head="10.0.0.1", invitation=INVITATION, timeout=0)
    assert "still at work on this host after 0 s" in refused["msg"]


BUSY = """echo 'error: snap "microk8s" has "install-snap" change in progress' >&2; exit 1"""


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (f"[ $(grep -c install log) -gt 2 ] || {{ {BUSY}; }}", None),
        ("echo error: no space left on device >&2; exit 1", "no space left on device"),
    ],
)
def test_snaps_wait_for_what_snapd_is_still_doing(host, script, said):
    command(host, "snap", f"[ $1 = install ] || exit 0; echo $1 >> log; {script}")
    done = run("offline_snaps", snaps=[{"name": "microk8s", "file": "/x.snap", "assertion": "/x.assert"}])
    assert said in done["msg"] if said else done["installed"] == ["microk8s"]
    assert log(host) == ["install"] * (1 if said else 3)


def test_snap_files_that_were_left_are_seen(host):
    staged = host / "snaps"
    assert run("microk8s_info", snap_directory=staged)["staged"] is False
    staged.mkdir()
    assert run("microk8s_info", snap_directory=staged)["staged"] is True
