"""Archives made by hand, and Debian packages of the bundle, on the deployed lab."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import CACHE, HEAD, LAB, WORKERS, Deployment, Play, wait_for

SINGLEUSER = "quay.io/jupyterhub/k8s-singleuser-sample:4.4.0"
MINE = "myorg/pytorch-jhub:24.10"
# The same image by a name of a registry that nobody has told the platform about.
ELSEWHERE = "registry.example.com/team/notebook:1"
WORKER = WORKERS[0]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:") as archive:
        add(archive, files)
    return stream.getvalue()


def add(archive: tarfile.TarFile, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(content), 0o644
        archive.addfile(member, io.BytesIO(content))


def docker_archive(name: str, text: str, architecture: str = "amd64") -> bytes:
    """What `docker save` writes of an image with one small layer."""
    layer = tar({"text": text.encode()})
    config = {"os": "linux", "architecture": architecture, "rootfs": {"diff_ids": [f"sha256:{sha256(layer)}"]}}
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["0/layer.tar"]}]
    documents = {"config.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}
    return tar({"0/layer.tar": layer, **documents})


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A copy of the lab's bundle that archives can be dropped into."""
    with tempfile.TemporaryDirectory(prefix="gpuhub-bundle-", dir="/var/tmp") as temporary:
        bundle = Path(temporary, "bundle")
        shutil.copytree(CACHE / "bundle", bundle, copy_function=os.link)
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


# ---- a notebook image made by hand -------------------------------------------------------------------------------


def add_layer(source: Path, target: Path, files: dict[str, bytes]) -> None:
    """Write a docker archive anew, compressed, with one more layer: what `docker build` and `docker save | gzip` do."""
    with tarfile.open(source) as old, gzip.open(target, "wb", compresslevel=1) as sink:
        (entry,) = json.loads(old.extractfile("manifest.json").read())
        config = json.loads(old.extractfile(entry["Config"]).read())
        layer = tar(files)
        config["rootfs"]["diff_ids"].append(f"sha256:{sha256(layer)}")
        config["history"].append({"created_by": "COPY"})
        content = json.dumps(config).encode()
        left_out = ("manifest.json", entry["Config"])
        entry.update(
            Config=f"{sha256(content)}.json", RepoTags=[MINE, ELSEWHERE], Layers=[*entry["Layers"], "mine/layer.tar"]
        )
        with tarfile.open(fileobj=sink, mode="w:") as new:
            for member in old:
                if member.name not in left_out:
                    new.addfile(member, old.extractfile(member) if member.isfile() else None)
            documents = {entry["Config"]: content, "manifest.json": json.dumps([entry]).encode()}
            add(new, {"mine/layer.tar": layer, **documents})


@pytest.fixture(scope="module")
def with_mine(deployment: Deployment, folder: Path) -> Iterator[Play]:
    """The notebooks' image comes from a `docker save | gzip` archive with a layer of its own."""
    plain = folder.parent / "plain.tar"
    copy = ["skopeo", "copy", "--quiet", f"oci:{folder}/oci:{SINGLEUSER}", f"docker-archive:{plain}:{MINE}"]
    subprocess.run(copy, check=True)
    add_layer(plain, folder / "jhub_24.10_3.tar.gz", {"etc/made-by-hand": b"by hand\n"})
    plain.unlink()
    yield deployment.play(*settings(folder))
    back = deployment.play()
    assert back.code == 0, back.output[-6000:]


def settings(folder: Path) -> tuple[str, ...]:
    chosen = {
        "offline_images_bundle": str(folder),
        "jupyterhub_singleuser_image": MINE,
        "offline_images_required": [ELSEWHERE],
    }
    return "-e", json.dumps(chosen)


def test_notebooks_start_from_an_image_made_by_hand(with_mine):
    """site.yml ends with a notebook that somebody opens."""
    assert with_mine.code == 0, with_mine.output[-6000:]


@pytest.mark.parametrize("image", [MINE, ELSEWHERE])
def test_nodes_pull_it_from_the_registry_with_its_own_layer(with_mine, deployment, image):
    deployment.kubectl(
        "-n", "default", "run", "made-by-hand", f"--image={image}", "--restart=Never",
        "--overrides", json.dumps({"spec": {"nodeName": WORKER}}), "--command", "--", "cat", "/etc/made-by-hand",
    )  # fmt: skip

    def phase() -> str:
        (pod,) = [
            pod for pod in deployment.objects("pods", "-n", "default") if pod["metadata"]["name"] == "made-by-hand"
        ]
        return pod["status"]["phase"]

    wait_for("the pod ends", lambda: phase() == "Succeeded")
    assert deployment.kubectl("-n", "default", "logs", "made-by-hand") == "by hand\n"
    deployment.kubectl("-n", "default", "delete", "pod", "made-by-hand", "--now")


def test_a_second_run_with_it_changes_nothing(with_mine, deployment, folder):
    again = deployment.play(*settings(folder))
    assert again.code == 0, again.output[-6000:]
    assert again.changed == 0, again.changed_tasks()


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
