"""Images of a node; containerd is played by fake_ctr.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ..module_utils import bundles
from ..module_utils.bundles import HUB, PAUSE, Bundle
from .runner import run

PINNED = "io.cri-containerd.pinned=pinned"


class Node:
    """A node with nothing on it, and an archive with two images."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.bundle = Bundle(folder / "bundle")
        self.archive = folder / "images.tar"
        self.export(PAUSE, HUB)
        self.file = folder / "state.json"
        monkeypatch.setenv("FAKE_CTR_STATE", str(self.file))
        self.state = {"images": {}, "content": [], "parts": {}, "log": [], "faults": []}

    def export(self, *references, **arguments):
        run("bundle_export", bundle=self.bundle.folder, images=references, path=self.archive, **arguments)

    @property
    def state(self):
        return json.loads(self.file.read_text())

    @state.setter
    def state(self, value):
        self.file.write_text(json.dumps(value))

    def change(self, **values):
        self.state = {**self.state, **values}

    def run(self, **arguments):
        # It needs nothing of the environment that it starts in.
        ctr = [sys.executable, "-I", "-S", str(Path(__file__).with_name("fake_ctr.py"))]
        return run("node_images", **{"images": self.bundle.digests, "ctr": ctr, **arguments})

    @property
    def imports(self):
        return [line for line in self.state["log"] if line.startswith("images import")]


@pytest.fixture
def node(tmp_path, monkeypatch):
    return Node(tmp_path, monkeypatch)


def test_from_nothing_to_whole_and_pinned_and_then_nothing_more(node):
    asked = node.run(state="query", pin=True)
    assert (asked["changed"], asked["to_import"]) == (False, sorted([PAUSE, HUB]))
    first = node.run(archive=node.archive, pin=True)
    assert first["changed"]
    assert {name: image[0] for name, image in node.state["images"].items()} == node.bundle.digests
    assert all(image[1] == [PINNED] for image in node.state["images"].values())
    assert not node.archive.exists(), "an archive is not kept"
    second = node.run(archive=node.archive, pin=True)
    assert (second["changed"], second["correct"]) == (False, True)
    assert len(node.imports) == 1


def test_check_mode_says_what_would_change_and_changes_nothing(node):
    predicted = node.run(check=True, archive="/not/there/yet.tar", pin=True)
    assert predicted["changed"]
    assert f"{PAUSE} {node.bundle.digests[PAUSE]} pinned" in predicted["diff"]["after"]
    assert predicted["diff"]["before"] == ""
    assert node.state["images"] == {}
    assert node.imports == []


def test_one_image_that_went_missing_is_brought_with_what_the_node_lacks(node):
    node.run(archive=node.archive)
    state = node.state
    del state["images"][HUB]
    node.state = state
    asked = node.run(state="query")
    assert asked["to_import"] == [HUB]
    node.export(HUB, exclude_digests=asked["content"])
    assert bundles.SHARED_LAYER not in node.archive.read_bytes()
    assert node.run(archive=node.archive)["changed"]
    assert node.run(state="query")["correct"]


def test_another_digest_and_lacking_content_are_found(node):
    node.run(archive=node.archive)
    state = node.state
    state["images"][PAUSE][0] = "sha256:" + "0" * 64
    state["content"].remove(f"sha256:{node.bundle.layer(HUB).name}")
    node.state = state
    asked = node.run(state="query")
    assert asked["different"] == {PAUSE: "sha256:" + "0" * 64}
    assert asked["incomplete"] == [HUB]
    node.export(PAUSE, HUB)
    node.run(archive=node.archive)
    assert node.run(state="query")["correct"]


def test_a_label_that_went_missing_is_put_back_without_an_import(node):
    node.run(archive=node.archive)
    assert node.run(state="query", pin=True)["unpinned"] == sorted([PAUSE, HUB])
    assert node.run(pin=True)["changed"]
    assert not node.run(pin=True)["changed"]
    assert len(node.imports) == 1


@pytest.mark.parametrize("position", [0.1, 0.5, 0.8])
def test_a_damaged_archive_is_never_imported(node, position):
    content = node.archive.read_bytes()
    layer = content.index(bundles.SHARED_LAYER)
    bundles.flip(node.archive, layer + int(len(bundles.SHARED_LAYER) * position))
    failed = node.run(archive=node.archive)
    assert failed["failed"]
    assert "is damaged and was not imported" in failed["msg"]
    assert node.imports == []


def test_a_cut_off_archive_is_never_imported(node):
    bundles.truncate(node.archive)
    assert "is damaged and was not imported" in node.run(archive=node.archive)["msg"]
    assert node.imports == []


def test_an_archive_with_another_image_is_never_imported(node):
    node.export(PAUSE)
    failed = node.run(archive=node.archive)
    assert f"holds nothing under the name {HUB}" in failed["msg"]
    assert node.imports == []


def test_an_exit_code_proves_nothing(node):
    node.change(faults=["import does nothing"])
    failed = node.run(archive=node.archive)
    assert node.imports != []
    assert f"after the import containerd still lacks {', '.join(sorted([PAUSE, HUB]))}" in failed["msg"]
    assert node.archive.exists()


def test_containerd_that_is_stopped_is_said_with_the_cure(node):
    node.change(faults=["stopped"])
    failed = node.run(state="query")
    assert "connection refused" in failed["msg"]
    assert "microk8s start" in failed["msg"]


def test_microk8s_that_is_not_installed_is_a_state(node):
    missing = ["/snap/bin/not-there", "ctr"]
    asked = node.run(state="query", ctr=missing)
    assert (asked["runtime"], asked["to_import"]) == ("absent", sorted([PAUSE, HUB]))
    assert node.run(check=True, ctr=missing)["changed"]
    assert "MicroK8s is not installed" in node.run(ctr=missing)["msg"]


def test_what_served_to_bring_images_is_removed_once_they_are_there(node, tmp_path):
    staged, killed = tmp_path / "sideload.tar.loaded", tmp_path / ".ansible_tmpq1w2sideload.tar.loaded"
    staged.write_text("x")
    killed.write_text("half")
    node.run(archive=node.archive)
    asked = node.run(state="query", staged=[staged])
    assert (asked["correct"], asked["staged"]) == (False, [str(staged), str(killed)])
    assert node.run(check=True, staged=[staged])["changed"]
    assert staged.exists()
    assert node.run(staged=[staged])["changed"]
    assert not staged.exists()
    assert not killed.exists()


def test_the_sideload_folder_is_waited_for_as_long_as_it_was_said(node, tmp_path):
    archive = tmp_path / "importing.tar"
    archive.write_text("x")
    assert node.run(state="query", sideload=archive, sideload_timeout=0)["to_import"] != []
    assert node.run(state="query", sideload=tmp_path / "gone.tar", sideload_timeout=600)["to_import"] != []


def test_wrong_wishes_are_named(node):
    assert "is not a digest" in node.run(images={PAUSE: "latest"})["msg"]
