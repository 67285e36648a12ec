"""What users install: the sources, all of them, nothing else that lies in a checkout, and the same bytes each time."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = ("changelogs", "docs", "images", "meta", "playbooks", "plugins", "roles", "services", "vars")
# What an administrator's checkout comes to hold, and what tools leave behind.
STRAY = (
    "deployment.log",
    "files/offline-images/manifest.json",
    "inventories/mine/hosts.yml",
    "my_inventory/group_vars/all/gpuhub.yml",
    "plugins/modules/__pycache__/files.cpython-311.pyc",
    "roles/calico/tasks/.main.yml.swp",
    ".ansible/facts",
)


def tracked() -> list[str]:
    """Files that git has, or would add."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [name for name in listing.stdout.split("\0") if name and (REPOSITORY / name).is_file()]


def checkout(folder: Path, mtime: int) -> Path:
    """A copy of the checkout whose files are of one age."""
    for name in tracked():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, target)
        os.utime(target, (mtime, mtime))
    return folder


def archive(checkout: Path) -> Path:
    """The archive of a checkout."""
    made = subprocess.run([checkout / ".ci/collection", checkout / "tests/output"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return Path(made.stdout.strip())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(checkout(tmp_path_factory.mktemp("one"), 1_600_000_000))


def test_holds_every_source(built):
    with tarfile.open(built) as opened:
        held = {member.name for member in opened.getmembers() if member.isfile()}
    sources = {name for name in tracked() if name.split("/")[0] in SHIPPED}
    assert sources - held == set()
    assert held - sources == {
        "FILES.json", "LICENSE", "MANIFEST.json", "README.md", "ansible.cfg", "files/offline-images/README.md",
        "inventories/airgap/group_vars/all/gpuhub.yml", "inventories/airgap/hosts.yml",
        "inventories/cluster/group_vars/all/gpuhub.yml", "inventories/cluster/hosts.yml",
        "inventories/single_node/group_vars/all/gpuhub.yml", "inventories/single_node/hosts.yml",
        "requirements.txt", "requirements.yml", "tests/sanity/ignore-2.19.txt",
    }  # fmt: skip


def test_same_sources_give_the_same_bytes_whatever_else_lies_there(built, tmp_path):
    other = checkout(tmp_path / "two", 1_700_000_000)
    for name in STRAY:
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_text("not ours\n")
    assert archive(other).read_bytes() == built.read_bytes()
