"""Debian packages from files, with a package manager that is played by shell scripts."""

from __future__ import annotations

import hashlib
import os

import pytest
from ansible_collections.gpuhub.platform.plugins.modules import deb_packages

from ..module_utils import bundles
from .runner import run

DEBS = {"nginx_1_amd64.deb": b"the server", "nginx-common_1_all.deb": b"its files"}
FILES = {name: "sha256:" + hashlib.sha256(content).hexdigest() for name, content in DEBS.items()}

SCRIPTS = {
    "dpkg-query": 'cat "$FAKE/status"',
    "dpkg": 'echo "dpkg $* locked=$DPKG_FRONTEND_LOCKED" >>"$FAKE/log"',
    "dpkg-deb": 'n=${2##*/}; echo "Package: ${n%%_*}"; echo "Version: 1"',
    "apt-get": """
        echo "apt-get $*" >>"$FAKE/log"
        list=$(printf '%s\\n' "$@" | sed -n 's/^-oDir::Etc::sourcelist=//p')
        case "$*" in
            *update*) cp "${list%/*}/Packages" "$list" "$FAKE" ;;
            *install*) test -e "$FAKE/refuses" && { echo "E: Unable to correct problems" >&2; exit 100; }
                       test -e "$FAKE/idle" || printf 'nginx\\tinstalled\\tok\\t\\n' >"$FAKE/status" ;;
        esac""",
}


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host without nginx, and an archive that holds it."""
    for name, script in SCRIPTS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "status").write_text("libc6\tinstalled\tok\tlibc\nnginx\tnot-installed\tok\t\n")
    (tmp_path / "log").write_text("")
    (tmp_path / "os-release").write_text("ID=debian\nVERSION_ID=13\n")
    (tmp_path / "packages.tar").write_bytes(bundles.tar_of(DEBS))
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(deb_packages, "FRONTEND_LOCK", tmp_path / "lock")
    monkeypatch.setattr(deb_packages, "OS_RELEASE", tmp_path / "os-release")
    return tmp_path


def packages(host, **arguments):
    return run("deb_packages", packages=["nginx"], archive=host / "packages.tar", files=FILES, **arguments)


def test_packages_are_installed_from_the_archive_alone(host):
    result = packages(host)
    assert result["changed"]
    assert result["missing"] == ["nginx"]
    assert result["distribution"] == "debian-13"
    assert f"SHA256: {FILES['nginx_1_amd64.deb'].partition(':')[2]}" in (host / "Packages").read_text()
    assert (host / "sources.list").read_text().startswith("deb [trusted=yes] file:/")
    log = (host / "log").read_text()
    assert "--no-remove" in log
    assert "Dir::Etc::sourceparts=/dev/null" in log
    assert sorted(file.name for file in host.iterdir() if "packages.tar" in file.name) == []


def test_a_second_look_finds_nothing_to_do(host):
    packages(host)
    again = packages(host)
    assert (again["changed"], again["correct"], again["missing"]) == (False, True, [])


@pytest.mark.parametrize("arguments", [{"state": "query"}, {"check": True}])
def test_looking_changes_nothing(host, arguments):
    before = (host / "packages.tar").read_bytes()
    result = packages(host, **arguments)
    assert result["changed"] is ("check" in arguments)
    assert result["missing"] == ["nginx"]
    assert (host / "log").read_text() == ""
    assert (host / "packages.tar").read_bytes() == before


def test_a_query_tells_what_the_host_has(host):
    assert packages(host, state="query")["installed"] == ["libc", "libc6"]


def test_what_a_killed_run_left_is_completed(host):
    """Everything is installed, but the archive is still there: nobody knows how far dpkg came."""
    (host / "status").write_text("nginx\tinstalled\tok\t\n")
    left = host / ".packages.tar.repository"
    left.mkdir()
    assert packages(host, state="query")["correct"] is False
    assert packages(host)["changed"]
    assert (host / "log").read_text().startswith("dpkg --configure --pending")
    assert "apt-get" not in (host / "log").read_text()
    assert packages(host)["correct"] is True


def test_dpkg_is_asked_under_the_lock_of_package_managers(host):
    packages(host)
    assert "locked=true" in (host / "log").read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (lambda host: (host / "refuses").touch(), "Unable to correct problems"),
        (lambda host: (host / "idle").touch(), "still not installed: nginx"),
        (lambda host: (host / "packages.tar").unlink(), "not installed: nginx; give an archive"),
        (lambda host: (host / "packages.tar").write_bytes(b"x" * 2000), "not an archive of packages"),
        (
            lambda host: (host / "packages.tar").write_bytes(bundles.tar_of({**DEBS, "nginx_1_amd64.deb": b"else"})),
            "nginx_1_amd64.deb is damaged",
        ),
        (lambda host: (host / "packages.tar").write_bytes(bundles.tar_of({})), "does not hold nginx"),
    ],
)
def test_what_goes_wrong_is_said(host, plant, words):
    plant(host)
    failed = packages(host)
    assert failed["failed"]
    assert words in failed["msg"]
    assert not (host / ".packages.tar.repository").exists()


def test_a_name_that_is_a_path_is_refused(host):
    failed = run("deb_packages", packages=["nginx"], archive=host / "packages.tar", files={"../x.deb": "sha256:0"})
    assert "is not the base name of a .deb file" in failed["msg"]


def test_another_package_manager_is_waited_for_and_then_named(host):
    """The lock is taken in another process: one process may lock its own file again."""
    child = os.fork()
    ready, done = host / "ready", host / "done"
    if child == 0:
        import fcntl
        import time

        with (host / "lock").open("w") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            ready.touch()
            while not done.exists():
                time.sleep(0.01)
        os._exit(0)
    while not ready.exists():
        pass
    failed = packages(host, lock_timeout=0)
    done.touch()
    os.waitpid(child, 0)
    assert "another package manager has held" in failed["msg"]
