"""Bad archives in the bundle's folder, and Debian packages of the bundle, on the deployed lab."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from archives import bundle_copy, docker_archive, tar
from harness import CACHE, HEAD, LAB, WORKERS, Deployment, Play

WORKER = WORKERS[0]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A copy of the lab's bundle that archives can be dropped into."""
    with bundle_copy() as bundle:
        yield bundle


# ---- bad archives ------------------------------------------------------------------------------------------------

FOREIGN = docker_archive("example.com/bad/foreign:1", "x", architecture="arm64")
FLIPPED = docker_archive("example.com/bad/flipped:1", "before").replace(b"before", b"behind")
BAD = {
    "flipped.tar": (FLIPPED, "has the digest"),
    "truncated.tar": (docker_archive("example.com/bad/truncated:1", "x")[:700], "damaged or cut off"),
    "truncated.tar.gz": (gzip.compress(FOREIGN)[:-30], "damaged or cut off"),
    "foreign.tar": (FOREIGN, "linux/arm64"),
    "one.tar": (docker_archive("example.com/bad/twice:1", "one"), "several images have this name"),
    "two.tar": (docker_archive("example.com/bad/twice:1", "two"), "one.tar"),
    "escape.tar": (tar({"../../../etc/cron.d/x": b"* * * * * root true"}), "leads out of it"),
    "photos.tar": (tar({"holiday.jpg": b"x"}), "holds no images"),
}
NEEDED = [f"example.com/bad/{name}:1" for name in ("flipped", "foreign", "twice", "missing")]


@pytest.fixture(scope="module")
def refused(deployment: Deployment, folder: Path) -> Play:
    """One run of site.yml with every kind of bad archive in the folder."""
    for name, (content, _) in BAD.items():
        (folder / name).write_bytes(content)
    variables = {"offline_images_bundle": str(folder), "offline_images_required": NEEDED}
    try:
        return deployment.play("-e", json.dumps(variables))
    finally:
        for name in BAD:
            (folder / name).unlink()


@pytest.mark.parametrize("name", list(BAD))
def test_every_bad_archive_is_named_with_its_fault(refused, name):
    assert name in refused.output
    assert BAD[name][1] in refused.output


def test_an_image_of_no_archive_is_named(refused):
    assert "example.com/bad/missing:1" in refused.output
    assert "docker save" in refused.output


def test_what_is_good_is_not_in_the_report(refused):
    """Charts are rendered whatever lies beside them: their images are known to be needed."""
    assert "quay.io/jupyterhub/k8s-hub" not in refused.output


def test_nothing_was_changed_before_they_were_refused(refused):
    assert refused.code != 0
    assert refused.changed == 0, refused.changed_tasks()
    assert not Path("/etc/cron.d/x").exists()


# ---- Debian packages ---------------------------------------------------------------------------------------------

PACKAGES_PLAY = f"""
- hosts: {HEAD}
  tasks:
    - ansible.builtin.import_role: {{name: gpuhub.platform.offline_images, tasks_from: check}}
      vars: {{offline_images_packages: [nginx]}}
- hosts: {WORKER}.lab
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {{name: gpuhub.platform.offline_images, tasks_from: packages}}
      vars: {{offline_images_wanted_packages: [nginx]}}
"""


@pytest.fixture
def packages(deployment: Deployment, tmp_path: Path) -> Iterator[Path]:
    """A playbook that brings nginx to a worker, which has none before and after."""
    (tmp_path / "packages.yml").write_text(PACKAGES_PLAY)
    yield tmp_path / "packages.yml"
    deployment.on(WORKER, "dpkg --purge nginx nginx-common")


def nginx(deployment: Deployment) -> str:
    return deployment.on(WORKER, "dpkg-query -W -f '${db:Status-Abbrev}' nginx nginx-common", check=False)


def test_packages_of_the_bundle_are_installed_without_a_network(deployment, packages):
    deployment.attempts(reset=True)
    dry = deployment.play("--check", playbook=str(packages))
    assert (dry.code, dry.recap[f"{WORKER}.lab"]["changed"], nginx(deployment)) == (0, 1, ""), dry.output[-3000:]
    done = deployment.play(playbook=str(packages))
    assert done.code == 0, done.output[-3000:]
    assert nginx(deployment) == "ii ii "
    again = deployment.play(playbook=str(packages))
    assert (again.code, again.changed, again.recap[f"{WORKER}.lab"]["ok"]) == (0, 0, 1), again.output[-3000:]
    assert deployment.attempts() == {"lookups": [], "packets": []}
    assert deployment.on(WORKER, "ls -A /var/lib/gpuhub/staging") == ""


def test_an_installation_that_was_killed_is_completed(deployment, packages):
    """dpkg was killed when it had unpacked everything and configured nothing."""
    for deb in sorted((CACHE / "bundle/debs").glob("nginx*.deb")):
        command = [LAB, "exec", WORKER, "bash", "-c", f"cat >/var/tmp/{deb.name}"]
        subprocess.run(command, input=deb.read_bytes(), check=True)
    deployment.on(WORKER, "dpkg --unpack /var/tmp/nginx*.deb && rm /var/tmp/nginx*.deb")
    assert nginx(deployment) == "iU iU "
    done = deployment.play(playbook=str(packages))
    assert done.code == 0, done.output[-3000:]
    assert nginx(deployment) == "ii ii "
