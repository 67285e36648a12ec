"""OCI layouts in folders and tars."""

from __future__ import annotations

import io
import json

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import oci

from . import bundles
from .bundles import HUB, INDEX, PAUSE, Bundle, LayoutWriter


@pytest.fixture
def bundle(tmp_path):
    return Bundle(tmp_path / "bundle")


@pytest.fixture(params=["folder", "tar"])
def reopen(request, bundle):
    """A function that opens the bundle's layout, as a folder or as a tar of it."""
    return lambda: oci.open_layout(bundle.oci.folder if request.param == "folder" else bundle.pack())


def test_images_are_found_with_all_their_blobs(bundle, reopen):
    found = {image.reference: image for image in oci.images(reopen())}
    assert {reference: image.digest for reference, image in found.items()} == bundle.digests
    assert [len(found[reference].blobs) for reference in (PAUSE, HUB)] == [3, 4]
    assert found[HUB].platform == "linux/amd64"
    assert found[HUB].size == bundle.manifest["images"][1]["size"]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (bundles.flip, "its content has the digest"),
        (bundles.truncate, "bytes instead of"),
        (lambda file: file.unlink(), "is missing"),
    ],
)
def test_a_damaged_layer_is_found_and_named(bundle, reopen, damage, problem):
    layer = bundle.layer(HUB)
    damage(layer)
    layout = reopen()
    (image,) = (image for image in oci.images(layout) if image.reference == HUB)
    with pytest.raises(oci.LayoutError, match=problem) as caught:
        for blob in image.blobs:
            layout.verify(blob)
    assert layer.name in caught.value.file


def test_swapped_layers_are_found(bundle, reopen):
    one, other = bundle.layer(HUB, 0), bundle.layer(HUB, 1)
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])
    with pytest.raises(oci.LayoutError):
        oci.verify_archive(reopen())


@pytest.mark.parametrize("what", ["manifest", "config"])
def test_a_changed_document_is_found_before_it_is_believed(bundle, reopen, what):
    file = bundle.oci.file(bundle.digests[HUB])
    if what == "config":
        file = bundle.oci.file(json.loads(file.read_bytes())["config"]["digest"])
    content = file.read_bytes()
    # Valid JSON of the same size: nothing but the digest tells.
    changed = content.replace(b'"schemaVersion": 2', b'"schemaVersion": 3').replace(b'"hub"', b'"bug"')
    assert changed != content
    file.write_bytes(changed)
    with pytest.raises(oci.LayoutError, match="its content has the digest"):
        oci.images(reopen())


def test_a_nested_index_is_followed_for_the_platform(tmp_path):
    writer = LayoutWriter(tmp_path / "oci")
    amd = {**writer.manifest([b"amd"]), "platform": {"os": "linux", "architecture": "amd64"}}
    arm = {**writer.manifest([b"arm"], "arm64"), "platform": {"os": "linux", "architecture": "arm64"}}
    inner = writer.json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [amd, arm]}, INDEX)
    writer.name(HUB, writer.json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [inner]}, INDEX))
    layout = oci.open_layout(writer.folder)
    assert [image.digest for image in oci.images(layout, "linux/amd64")] == [amd["digest"]]
    assert {image.digest for image in oci.images(layout)} == {amd["digest"], arm["digest"]}


def test_the_configuration_decides_where_the_index_is_silent(tmp_path):
    writer = LayoutWriter(tmp_path / "oci")
    writer.name(HUB, writer.manifest([b"arm"], "arm64"))
    assert oci.images(oci.open_layout(writer.folder), "linux/amd64") == []


def test_an_index_that_contains_itself_ends(tmp_path):
    writer = LayoutWriter(tmp_path / "oci")
    inner = writer.manifest([b"x"])
    for _ in range(6):
        inner = writer.json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [inner]}, INDEX)
    writer.name(HUB, inner)
    with pytest.raises(oci.LayoutError, match="nested deeper"):
        oci.images(oci.open_layout(writer.folder))


@pytest.mark.parametrize(
    ("descriptor", "problem"),
    [
        ({"digest": "sha256:../../../etc/passwd", "size": 1}, "is not a digest"),
        ({"digest": "sha256:" + "0" * 64, "size": -1}, "has the size -1"),
        ({"digest": "sha256:" + "0" * 64, "size": True}, "has the size True"),
        ({"digest": "sha256:" + "0" * 64, "size": 1}, "is missing"),
        ({"size": 1}, "is not a digest"),
        ("text", "has no list"),
    ],
)
def test_hostile_descriptors_are_refused(tmp_path, descriptor, problem):
    writer = LayoutWriter(tmp_path / "oci")
    (writer.folder / "index.json").write_text(json.dumps({"manifests": [descriptor]}))
    with pytest.raises(oci.LayoutError, match=problem):
        oci.images(oci.open_layout(writer.folder))


def test_links_do_not_lead_out_of_a_folder(bundle, tmp_path):
    layer = bundle.layer(HUB)
    layer.rename(tmp_path / "outside")
    layer.symlink_to(tmp_path / "outside")
    with pytest.raises(oci.LayoutError, match="leads out"):
        oci.verify_archive(oci.open_layout(bundle.oci.folder))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no archive"),
        (b"\x1f\x8b not a tar", "is compressed by gzip"),
        (bundles.tar_of({"oci-layout": b"{}"}), "imageLayoutVersion"),
        (bundles.tar_of({"index.json": b"{}"}), "oci-layout: is missing"),
        (
            bundles.tar_of({"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'})[:600],
            "damaged or cut off",
        ),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path, content, problem):
    path = tmp_path / "archive.tar"
    path.write_bytes(content)
    with pytest.raises(oci.LayoutError, match=problem):
        oci.open_layout(path)


def test_a_tar_that_is_cut_off_anywhere_is_refused(bundle):
    path = bundle.pack()
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0"))
    for length in range(end - 1, 0, -(end // 40)):
        path.write_bytes(whole[:length])
        with pytest.raises(oci.LayoutError):
            oci.verify_archive(oci.open_layout(path))
    path.write_bytes(whole)
    assert len(oci.verify_archive(oci.open_layout(path))) == 2


def export(bundle, references=(PAUSE, HUB), excluded=()):
    layout = oci.open_layout(bundle.oci.folder)
    chosen = [oci.ArchiveImage(image, layout) for image in oci.images(layout) if image.reference in references]
    stream = io.BytesIO()
    oci.write_archive(stream, chosen, excluded)
    return stream.getvalue(), oci.archive_key(chosen, excluded)


def test_an_archive_holds_its_images_and_nothing_else(bundle, tmp_path):
    content, _ = export(bundle, [PAUSE])
    (tmp_path / "out.tar").write_bytes(content)
    layout = oci.open_layout(tmp_path / "out.tar")
    assert [(image.reference, image.digest) for image in oci.verify_archive(layout)] == [(PAUSE, bundle.digests[PAUSE])]
    assert len(list(layout.names())) == 5
    annotations = json.loads(layout.read("index.json"))["manifests"][0]["annotations"]
    assert set(annotations) == set(oci.NAME_ANNOTATIONS)
    assert set(annotations.values()) == {PAUSE}


def test_equal_images_give_equal_bytes_and_different_ones_another_name(bundle, tmp_path):
    other = Bundle(tmp_path / "other")
    assert export(bundle) == export(other)
    shared = bundles.digest(bundles.SHARED_LAYER)
    keys = {
        export(bundle)[1],
        export(bundle, [PAUSE])[1],
        export(bundle, [HUB])[1],
        export(bundle, excluded=[shared])[1],
    }
    assert len(keys) == 4


def test_layers_that_the_receiver_has_are_left_out(bundle, tmp_path):
    shared = bundles.digest(bundles.SHARED_LAYER)
    path = tmp_path / "out.tar"
    path.write_bytes(export(bundle, excluded=[shared, bundle.digests[HUB]])[0])
    layout = oci.open_layout(path)
    assert oci.blob_file(shared) not in layout.names()
    assert oci.blob_file(bundle.digests[HUB]) in layout.names(), "manifests are never left out"
    with pytest.raises(oci.MissingFileError):
        oci.verify_archive(layout)
    assert len(oci.verify_archive(layout, [shared])) == 2


@pytest.mark.parametrize("damage", [bundles.flip, bundles.truncate, lambda file: file.unlink()])
def test_a_damaged_blob_is_never_exported(bundle, damage):
    damage(bundle.layer(HUB))
    with pytest.raises(oci.LayoutError):
        export(bundle)


def test_foreign_files_in_an_archive_are_refused(bundle, tmp_path):
    (bundle.oci.folder / "manifest.json").write_text("[]")
    with pytest.raises(oci.LayoutError, match="does not belong"):
        oci.verify_archive(oci.open_layout(bundle.oci.folder))
