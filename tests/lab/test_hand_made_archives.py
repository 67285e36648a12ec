"""Archives that real tools make of the lab's images, read by the product and by these tools again."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from ansible_collections.gpuhub.platform.plugins.module_utils import bundle, oci, zstd
from ansible_collections.gpuhub.platform.plugins.module_utils.bundle_archive import image_selection, write_images
from ansible_collections.gpuhub.platform.plugins.module_utils.image_archive import Archives

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "lab"))

from gpuhub_lab import catalogue, images

PAUSE = catalogue.load()["pause"]["image"]
COREDNS = catalogue.load()["coredns"]["image"]


@pytest.fixture(scope="module")
def layout() -> Path:
    return images.build() / "oci"


def tool(*command: str | Path) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def config_of(source: str) -> dict:
    return json.loads(tool("skopeo", "inspect", "--config", "--raw", source))


@pytest.fixture
def archives(tmp_path: Path) -> Archives:
    return Archives(tmp_path / "cache", zstd.opener())


def compressed(path: Path, ending: str) -> None:
    """Replace `path` by its compressed form."""
    if ending == "gz":
        with path.open("rb") as source, gzip.open(f"{path}.gz", "wb", compresslevel=1) as sink:
            shutil.copyfileobj(source, sink)
    else:
        with path.open("rb") as source, Path(f"{path}.zst").open("wb") as sink:
            zstandard.ZstdCompressor(level=1).copy_stream(source, sink)
    path.unlink()


@pytest.mark.parametrize("ending", ["", "gz", "zst"])
@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
@pytest.mark.parametrize("reference", [PAUSE, COREDNS])
def test_what_skopeo_writes_is_whole_and_skopeo_reads_what_we_send(
    layout: Path, archives: Archives, tmp_path: Path, transport: str, reference: str, ending: str
) -> None:
    folder = tmp_path / "dropped"
    folder.mkdir()
    archive = folder / "image.tar"
    tool("skopeo", "copy", "--quiet", f"oci:{layout}:{reference}", f"{transport}:{archive}:{reference}")
    if ending:
        compressed(archive, ending)
    holding = bundle.check(folder, bundle.Needs(images={reference: "the test"}), archives=archives)
    assert holding.problems == [], bundle.report(folder, holding.problems)
    export = tmp_path / "export.tar"
    with export.open("wb") as stream:
        write_images(stream, image_selection(bundle.Bundle(folder, archives), [reference], "linux/amd64"), ())
    oci.verify_archive(oci.open_layout(export))
    assert config_of(f"oci-archive:{export}:{reference}") == config_of(f"oci:{layout}:{reference}")
    # Reading all layers, skopeo compares their digests.
    tool("skopeo", "copy", "--quiet", f"oci-archive:{export}:{reference}", f"dir:{tmp_path / 'all'}")


def test_what_buildah_builds_and_pushes_under_a_name_of_ones_own(archives: Archives, tmp_path: Path) -> None:
    """The way of somebody who adds a layer to an image and saves it."""
    folder, storage = tmp_path / "dropped", ["--root", tmp_path / "root", "--runroot", tmp_path / "run"]
    folder.mkdir()
    buildah = ["buildah", *storage, "--storage-driver", "vfs"]
    container = tool(*buildah, "from", "scratch").strip()
    (tmp_path / "motd").write_text("made by hand")
    tool(*buildah, "copy", container, tmp_path / "motd", "/etc/motd")
    tool(*buildah, "commit", "--quiet", container, "localhost/mine")
    tool(*buildah, "push", "--quiet", "localhost/mine", f"docker-archive:{folder}/jhub_24.10_3.tar:myorg/jhub:24.10")
    held = bundle.check(folder, bundle.Needs(images={"myorg/jhub:24.10": "the test"}), archives=archives)
    assert held.problems == [], bundle.report(folder, held.problems)
    assert held.archives == {"docker.io/myorg/jhub:24.10": "jhub_24.10_3.tar"}
