"""A site of nginx; a script stands in for nginx, which the end-to-end tests have."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from pathlib import Path

import pytest
from ansible_collections.gpuhub.platform.plugins.modules import nginx_site

from .runner import run

NGINX = """#!/bin/sh
# The real one reads all of its configuration.
if grep -rl broken {folder}/conf.d; then echo '[emerg] unknown directive "broken"' >&2; exit 1; fi
"""
DPKG_QUERY = """#!/bin/sh
echo " {page} {checksum}"
"""
SYSTEMCTL = """#!/bin/sh
echo "$@" >> {folder}/calls
[ "$1" != show ] || printf 'ActiveState=%s\\nMainPID=%s\\n' $(cat {folder}/running)
[ "$1" != reload ] || touch {folder}/reloaded
"""


class Host:
    """An nginx as Debian installs it, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site, self.key = folder / "conf.d/00-gpuhub.conf", folder / "tls.key"
        self.page, self.link = folder / "sites-available/default", folder / "sites-enabled/default"
        for name in ("bin", "conf.d", "sites-available", "sites-enabled"):
            (folder / name).mkdir()
        self.page.write_text("welcome")
        self.link.symlink_to(self.page)
        self.key.write_text("key")
        (folder / "running").write_text("inactive 0")
        checksum = hashlib.md5(b"welcome").hexdigest()
        for name, script in {"nginx": NGINX, "dpkg-query": DPKG_QUERY, "systemctl": SYSTEMCTL}.items():
            (folder / "bin" / name).write_text(script.format(folder=folder, page=self.page, checksum=checksum))
            (folder / "bin" / name).chmod(0o755)

    def run(self, content: str | None = "server {}\n", **arguments):
        settings = {"path": self.site, "content": content, "reads": [self.key], "default_site": self.link}
        return run("nginx_site", **{**settings, **arguments})

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return [line for line in path.read_text().splitlines() if not line.startswith("show")] if path.exists() else []


@pytest.fixture
def host(tmp_path, monkeypatch):
    host = Host(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(nginx_site, "SITES", (f"{tmp_path}/conf.d/*.conf", f"{tmp_path}/sites-enabled/*"))
    monkeypatch.setattr(nginx_site, "ERROR_LOG", tmp_path / "error.log")
    monkeypatch.setattr(nginx_site, "RELOAD_TIMEOUT", 0.5)
    return host


def test_from_nothing_and_then_nothing_more(host):
    predicted = host.run(check=True)
    assert predicted["changed"]
    assert predicted["diff"]["after"] == "server {}\n"
    assert not host.site.exists()
    assert host.link.exists()
    assert len(host.run()["reasons"]) == 2
    assert host.site.read_text() == "server {}\n"
    assert not host.link.is_symlink(), "the welcome page would answer for names that are not ours"
    assert host.page.exists()
    assert host.run()["reasons"] == []


def test_a_configuration_that_nginx_refuses_is_put_back(host):
    refused = host.run("broken\n")
    assert refused["failed"]
    assert 'unknown directive "broken"' in refused["msg"]
    assert not host.site.exists()
    assert host.link.exists()
    host.run()
    assert host.run("broken\n")["failed"]
    assert host.site.read_text() == "server {}\n"
    # Somebody else's mistake is named, not hidden.
    (host.folder / "conf.d/other.conf").write_text("broken\n")
    assert host.run("server { }\n")["failed"]
    assert host.site.read_text() == "server {}\n"


@pytest.mark.parametrize("what", ["edited", "a file", "another page"])
def test_a_default_site_that_is_somebody_s_stays(host, what):
    if what == "edited":
        host.page.write_text("my own pages")
    elif what == "a file":
        host.link.unlink()
        host.link.write_text("welcome")
    else:
        (host.folder / "sites-available/mine").write_text("welcome")
        host.link.unlink()
        host.link.symlink_to(host.folder / "sites-available/mine")
    before = host.link.read_text()
    assert host.run()["changed"]
    assert host.link.read_text() == before


@pytest.fixture
def running(host):
    """An nginx that runs: a shell as its main process, a child as its worker."""
    host.run()
    time.sleep(0.05)  # what it has read is older than it is, by more than the clock's ticks
    with subprocess.Popen(["sh", "-c", "sleep 600 & wait"]) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not children.read_text():
            pass
        (host.folder / "running").write_text(f"active {process.pid}")
        yield host
        for child in children.read_text().split():
            os.kill(int(child), 9)


def test_it_reads_again_what_has_changed(running):
    assert running.run()["reasons"] == []
    # As after a run that was killed between writing and reloading.
    running.key.write_text("another key")
    # Clearly later: a process's start is known to a hundredth of a second only.
    later = time.time() + 2
    os.utime(running.key, (later, later))
    assert running.run(check=True)["reasons"] == ["nginx has read older files"]
    assert running.calls() == []
    # The stand-in has no new worker: nginx goes on with what it has, which it says in its log.
    (running.folder / "error.log").write_text("[emerg] bind() to 0.0.0.0:443 failed\n")
    refused = running.run()
    assert "goes on with its old configuration" in refused["msg"]
    assert "bind() to 0.0.0.0:443 failed" in refused["msg"]
    assert running.calls() == ["reload nginx.service"]


def test_absent(running):
    (running.folder / "conf.d/other.conf").write_text("server {}\n")
    assert running.run(None, state="absent")["reasons"] == [f"{running.site} is left"]
    assert not running.site.exists()
    assert running.calls() == ["reload nginx.service"]
    assert running.run(None, state="absent")["reasons"] == []


def test_absent_with_no_other_site(running):
    running.run(None, state="absent")
    assert running.calls() == ["disable --now nginx.service"]


def test_not_installed(host, monkeypatch):
    monkeypatch.setattr(nginx_site.AnsibleModule, "get_bin_path", lambda *_, **__: None)
    assert host.run(check=True)["changed"]
    assert "nginx is not installed on this host" in host.run()["msg"]
    assert host.run(None, state="absent")["reasons"] == []
