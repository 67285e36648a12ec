"""The collection as users get it: an archive, installed without Galaxy, run by name from a folder that is no clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import CACHE, LAB, REPOSITORY, Play


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """What the README leads to: settings of Ansible, an inventory, the collection beside them."""
    with tempfile.TemporaryDirectory(prefix="gpuhub-installed-", dir="/var/tmp") as name:
        folder = Path(name)
        archive = run(REPOSITORY / ".ci/collection", folder).stdout.strip()
        run("ansible-galaxy", "collection", "install", "--offline", "-p", folder / "collections", archive)
        installed = folder / "collections/ansible_collections/gpuhub/platform"
        shutil.copy(installed / "ansible.cfg", folder)
        shutil.copytree(REPOSITORY / "inventories/lab", folder / "inventory")
        yield folder


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def play(folder: Path, *arguments: str) -> Play:
    """gpuhub.platform.site by name, from `folder`."""
    command = [LAB, "run", "ansible-playbook", "-i", "inventory", "gpuhub.platform.site", *arguments]
    settings = {**os.environ, "ANSIBLE_NOCOLOR": "1", "GPUHUB_BUNDLE": str(CACHE / "bundle")}
    done = subprocess.run(
        command, cwd=folder, env=settings, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return Play(done.returncode, done.stdout)


def test_runs_by_name_and_changes_nothing(deployment, folder):
    again = play(folder)
    assert again.code == 0, again.output[-6000:]
    assert again.changed == 0, again.changed_tasks()
    assert set(again.recap) > {"head.lab", "worker1.lab"}, again.recap
    assert "PLAY RECAP" in (folder / "deployment.log").read_text(), "a log of the deployment stays"


def test_what_it_deploys_is_its_own_and_nothing_else_differs(deployment, folder):
    """Not the clone's: a hub whose code differs in the installed collection would be deployed anew."""
    code = folder / "collections/ansible_collections/gpuhub/platform/services/hub/gpuhub_hub/__init__.py"
    code.write_text(code.read_text() + "\n# edited\n")
    found = play(folder, "--check")
    assert found.code == 0, found.output[-6000:]
    changed = found.changed_tasks()
    assert "gpuhub.platform.jupyterhub : What the hub and notebooks mount is in the cluster" in changed
    assert [task for task in changed if not task.startswith("gpuhub.platform.jupyterhub : ")] == []
