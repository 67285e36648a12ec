"""Image archives made by hand: every form in which they come, and every way in which they can be wrong."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
from collections.abc import Callable
from random import Random

import pytest
import sample
import zstandard
from ansible_collections.gpuhub.platform.plugins.module_utils import bundle as core
from ansible_collections.gpuhub.platform.plugins.module_utils import (
    image_archive,
    oci,
    untrusted_tar,
    verified_files,
    zstd,
)
from ansible_collections.gpuhub.platform.plugins.module_utils.bundle_archive import image_selection, write_images
from ansible_collections.gpuhub.platform.plugins.module_utils.bundle_manifest import BundleError
from ansible_collections.gpuhub.platform.plugins.module_utils.image_archive import Archives
from ansible_collections.gpuhub.platform.plugins.module_utils.verified_files import VerifiedFiles, file_state

from . import bundles
from .bundles import Bundle, docker_files, layer, tar_of

JHUB = "docker.io/myorg/pytorch-jhub:24.10"
LAYERS = [layer("base"), layer("notebook" * 500)]

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": gzip.compress,
    "tgz": gzip.compress,
    "tar.zst": zstandard.compress,
    "tar.xz": lzma.compress,
    "tar.bz2": bz2.compress,
}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "dropped"
    path.mkdir()
    return path


@pytest.fixture
def archives(tmp_path):
    return Archives(tmp_path / "cache", zstd.opener())


def put(folder, name="jhub_24.10_3.tar", images=None, **arguments):
    """Write a docker archive into the folder, compressed as its name says."""
    files = docker_files(images or {"myorg/pytorch-jhub:24.10": LAYERS}, **arguments)
    path = folder / name
    path.write_bytes(COMPRESSIONS[name[name.index(".tar" if ".tar" in name else ".tgz") + 1 :]](tar_of(files)))
    return path


def check(folder, archives, *references, memory=None):
    needs = core.Needs(images=dict.fromkeys(references or (JHUB,), "the notebook"))
    return core.check(folder, needs, VerifiedFiles(memory), archives)


def export(folder, archives, *references):
    """An export of images, opened again and verified to the last byte."""
    stream = io.BytesIO()
    write_images(stream, image_selection(core.Bundle(folder, archives), references or (JHUB,), "linux/amd64"), ())
    path = folder.parent / "export.tar"
    path.write_bytes(stream.getvalue())
    return oci.verify_archive(oci.open_layout(path))


# ---- forms


@pytest.mark.parametrize("ending", list(COMPRESSIONS))
@pytest.mark.parametrize("style", [{}, {"legacy": True}, {"gzipped": True}])
def test_a_docker_archive_is_found_verified_and_exported(folder, archives, ending, style):
    put(folder, f"jhub_24_3.{ending}", **style)
    holding = check(folder, archives)
    assert holding.problems == []
    (image,) = export(folder, archives)
    assert (image.reference, image.digest) == (JHUB, holding.images[JHUB].digest)
    assert holding.archives == {JHUB: f"jhub_24_3.{ending}"}
    assert image.platform == "linux/amd64"
    assert len(image.blobs) == 4


def test_the_manifest_that_we_make_depends_on_the_content_alone(folder, archives):
    """However it is packed, compressed, named, or which tool wrote it."""
    put(folder, "a.tar")
    put(folder, "b.tar.gz", {"myorg/other:1 myorg/pytorch-jhub:24.10": LAYERS}, legacy=True)
    holding = check(folder, archives)
    assert holding.fatal == []
    digests = {image.digest for image in core.Bundle(folder, archives).images[JHUB]}
    assert digests == {holding.images[JHUB].digest}


def test_several_images_in_one_archive_share_their_layers(folder, archives):
    put(folder, "calico-v3.25.1-bundle.tar", {"calico/cni:v3.25.1": LAYERS[:1], "calico/node:v3.25.1": LAYERS})
    references = ("docker.io/calico/cni:v3.25.1", "docker.io/calico/node:v3.25.1")
    assert check(folder, archives, *references).problems == []
    assert {image.reference for image in export(folder, archives, *references)} == set(references)


def test_layers_may_be_links_inside_the_archive(folder, archives):
    """Docker before 25 writes a layer that two images share once, and links to it."""
    files = docker_files({"myorg/pytorch-jhub:24.10": LAYERS}, legacy=True)
    real = next(name for name in files if name.endswith("layer.tar"))
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:") as tar:
        for name, content in files.items():
            moved = "elsewhere/layer.tar" if name == real else name
            tar.addfile(oci.tar_member(moved, len(content)), io.BytesIO(content))
        link = tarfile.TarInfo(real)
        link.type, link.linkname = tarfile.SYMTYPE, "../elsewhere/layer.tar"
        tar.addfile(link)
    (folder / "linked.tar").write_bytes(stream.getvalue())
    assert check(folder, archives).problems == []


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.zst"])
@pytest.mark.parametrize("annotation", oci.NAME_ANNOTATIONS)
def test_a_tar_of_an_oci_layout(tmp_path, folder, archives, ending, annotation):
    writer = bundles.LayoutWriter(tmp_path / "layout")
    writer.name("myorg/pytorch-jhub:24.10", writer.manifest(LAYERS))
    index = tmp_path / "layout/index.json"
    index.write_text(index.read_text().replace("io.containerd.image.name", annotation))
    (folder / f"x.{ending}").write_bytes(COMPRESSIONS[ending](tar_of(tree(tmp_path / "layout"))))
    assert check(folder, archives).problems == []
    assert [image.reference for image in export(folder, archives)] == [JHUB]


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_docker_25_writes_a_whole_index_and_one_platform_of_it(tmp_path, folder, archives):
    writer = bundles.LayoutWriter(tmp_path / "layout")
    here = {**writer.manifest(LAYERS), "platform": {"os": "linux", "architecture": "amd64"}}
    absent = {**here, "digest": "sha256:" + "0" * 64, "platform": {"os": "linux", "architecture": "arm64"}}
    attestation = {**writer.manifest([b"x"]), "platform": {"os": "unknown", "architecture": "unknown"}}
    children = {"schemaVersion": 2, "mediaType": bundles.INDEX, "manifests": [here, absent, attestation]}
    writer.name("myorg/pytorch-jhub:24.10", writer.json(children, bundles.INDEX))
    files = {**tree(tmp_path / "layout"), "manifest.json": b"[]", "repositories": b"{}"}
    (folder / "x.tar").write_bytes(tar_of(files))
    holding = check(folder, archives)
    assert holding.problems == []
    assert holding.images[JHUB].digest == here["digest"]


def test_archives_lie_in_a_bundle_beside_its_manifest(tmp_path, archives):
    bundle = Bundle(tmp_path / "bundle")
    put(bundle.folder)
    holding = check(bundle.folder, archives, JHUB, bundles.HUB)
    assert holding.fatal == []
    assert holding.archives == {JHUB: "jhub_24.10_3.tar", bundles.HUB: "oci"}


def test_what_the_manifest_names_is_not_taken_for_made_by_hand(tmp_path, archives):
    bundle = Bundle(tmp_path / "bundle")
    bundle.pack()
    assert core.Bundle(bundle.folder, archives).hand_made == []


# ---- what is needed against what is there


def test_what_nobody_needs_is_named_with_its_archive_and_is_no_error(folder, archives):
    put(folder)
    put(folder, "old.tar.gz", {"myorg/old:1": [layer("old")], "": [layer("number")]})
    holding = check(folder, archives)
    assert holding.fatal == []
    text = core.report(folder, holding.problems)
    assert "image docker.io/myorg/old:1 sha256:" in text
    assert "(old.tar.gz)" in text
    assert "an image without a name" in text


def test_what_is_missing_says_how_to_bring_it(folder, archives):
    put(folder)
    (problem,) = check(folder, archives, "myorg/other:1").fatal
    assert (problem.category, problem.subject) == ("missing", "image docker.io/myorg/other:1")
    assert "docker save" in problem.cure


def test_an_image_for_other_machines_is_named(folder, archives):
    put(folder, architecture="arm64")
    (problem,) = check(folder, archives).fatal
    assert (problem.category, problem.file) == ("wrong platform", "jhub_24.10_3.tar")
    assert "linux/arm64" in problem.text


def test_of_two_platforms_the_fitting_one_is_taken(folder, archives):
    put(folder, "arm.tar", architecture="arm64")
    put(folder, "intel.tar")
    holding = check(folder, archives)
    assert holding.archives == {JHUB: "intel.tar"}
    (problem,) = holding.problems
    assert (problem.category, problem.file, problem.text) == (
        "superfluous",
        "arm.tar",
        "another of this name is taken",
    )


def test_two_images_of_one_name_are_a_contradiction_that_names_both(folder, archives):
    put(folder, "a.tar")
    put(folder, "b.tar", {"myorg/pytorch-jhub:24.10": [layer("another")]})
    (problem,) = check(folder, archives).problems
    assert problem.category == "contradictory"
    for name in ("a.tar", "b.tar"):
        assert name in problem.text
    with pytest.raises(BundleError, match=r"a\.tar .* and b\.tar"):
        export(folder, archives)


def test_a_contradiction_that_nobody_needs_is_no_error(folder, archives):
    put(folder)
    for number in "12":
        put(folder, f"{number}.tar", {"myorg/old:1": [layer(number)]})
    assert check(folder, archives).fatal == []


def test_an_archive_that_contradicts_the_manifest_is_named(tmp_path, archives):
    bundle = Bundle(tmp_path / "bundle")
    put(bundle.folder, images={bundles.HUB: [layer("not that hub")]})
    (problem,) = check(bundle.folder, archives, bundles.HUB).fatal
    assert problem.category == "contradictory"
    assert problem.file == "oci, jhub_24.10_3.tar"


def test_the_same_image_in_another_form_is_no_contradiction(tmp_path, archives):
    """Docker's archive of an image that the bundle has from a registry: another manifest, the same configuration."""
    bundle = Bundle(tmp_path / "bundle")
    document = json.loads(bundle.oci.file(bundle.digests[bundles.HUB]).read_bytes())
    config = bundles.configuration(LAYERS)
    document["config"] = bundle.oci.blob(config, bundles.CONFIG)
    document["layers"] = [bundle.oci.blob(gzip.compress(content), bundles.LAYER + "+gzip") for content in LAYERS]
    described = bundle.oci.name(bundles.HUB, bundle.oci.json(document, bundles.MANIFEST))
    size = bundles.image_size(bundle.oci, described)
    bundle.manifest["images"][1].update(digest=described["digest"], size=size)
    bundle.write()
    put(bundle.folder, images={bundles.HUB: LAYERS})
    holding = check(bundle.folder, archives, bundles.HUB)
    assert holding.fatal == []
    assert holding.archives == {bundles.HUB: "oci"}


# ---- memory


def reads(monkeypatch):
    """A list that grows with every archive that is read."""
    seen = []
    original = image_archive.read_archive
    monkeypatch.setattr(image_archive, "read_archive", lambda path, *rest: seen.append(path) or original(path, *rest))
    return seen


@pytest.mark.parametrize("ending", ["tar", "tar.zst"])
def test_a_second_look_reads_no_archive_and_hashes_nothing(tmp_path, folder, archives, monkeypatch, ending):
    put(folder, f"x.{ending}")
    first = check(folder, archives, memory=tmp_path / "verified.json")
    seen = reads(monkeypatch)
    monkeypatch.setattr(oci, "hash_stream", lambda stream: pytest.fail("hashed again"))
    monkeypatch.setattr(untrusted_tar.TarStream, "take", lambda *_: pytest.fail("unpacked again"))
    again = check(folder, Archives(tmp_path / "cache", zstd.opener()), memory=tmp_path / "verified.json")
    assert seen == []
    assert again == first


def test_an_archive_that_changed_is_read_again(folder, archives, monkeypatch):
    put(folder)
    before = check(folder, archives).images[JHUB].digest
    put(folder, images={"myorg/pytorch-jhub:24.10": [layer("newer")]})
    seen = reads(monkeypatch)
    assert check(folder, archives).images[JHUB].digest != before
    assert len(seen) == 1


def test_an_archive_that_is_still_being_copied_is_said(folder, archives, monkeypatch):
    path = put(folder)
    original = image_archive.read_archive

    def read(*arguments):
        contents = original(*arguments)
        os.utime(path)
        return contents

    monkeypatch.setattr(image_archive, "read_archive", read)
    assert any("changed while it was read" in problem.text for problem in check(folder, archives).fatal)
    monkeypatch.undo()
    assert check(folder, archives).problems == []


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_a_bit_flipped_behind_the_memory_is_refused_by_whoever_reads(tmp_path, folder, archives, monkeypatch, ending):
    """Disks do that: size, times and inode say that nothing happened."""
    path = put(folder, f"x.{ending}")
    check(folder, archives, memory=tmp_path / "verified.json")
    blobs = [file for file in (tmp_path / "cache").glob("blobs/*") if file.name != ".lock"]
    target = path if ending == "tar" else max(blobs, key=lambda file: file.stat().st_size)
    states = {file: file_state(file) for file in (path, *blobs)}
    for module in (image_archive, verified_files):
        monkeypatch.setattr(module, "file_state", states.__getitem__)
    content = target.read_bytes()
    bundles.flip(target, content.index(b"notebooknotebook"))
    assert check(folder, archives, memory=tmp_path / "verified.json").fatal == [], "the control: the memory is believed"
    with pytest.raises(oci.LayoutError, match="its content has the digest"):
        export(folder, archives)


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_a_bit_flipped_with_its_time_put_back_is_found(tmp_path, folder, archives, ending):
    path = put(folder, f"x.{ending}")
    check(folder, archives, memory=tmp_path / "verified.json")
    status = path.stat()
    bundles.flip(path, len(path.read_bytes()) // 2)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert check(folder, archives, memory=tmp_path / "verified.json").fatal != []


def test_what_was_unpacked_and_then_damaged_is_unpacked_again(tmp_path, folder, archives):
    put(folder, "x.tar.gz")
    check(folder, archives)
    for file in (tmp_path / "cache/blobs").iterdir():
        if file.name != ".lock":
            bundles.flip(file)
    assert check(folder, archives).problems == []
    assert [image.reference for image in export(folder, archives)] == [JHUB]


def test_only_what_is_needed_is_unpacked_and_it_goes_with_its_archive(tmp_path, folder, archives):
    path = put(folder, "x.tar.gz", {"myorg/pytorch-jhub:24.10": LAYERS[:1], "myorg/old:1": LAYERS[1:]})
    put(folder, "y.tar")

    def unpacked():
        return {file.name for file in (tmp_path / "cache/blobs").iterdir() if file.name != ".lock"}

    path.rename(folder / "z.tar.gz")
    (folder / "y.tar").unlink()
    check(folder, archives)
    assert unpacked() == {bundles.digest(LAYERS[0])[7:]}
    (folder / "z.tar.gz").unlink()
    put(folder, "y.tar")
    check(folder, archives)
    assert unpacked() == set()
    assert len(list((tmp_path / "cache/index").iterdir())) == 1


def test_a_broken_memory_is_no_memory(tmp_path, folder, archives):
    put(folder)
    check(folder, archives)
    (remembered,) = (tmp_path / "cache/index").iterdir()
    for content in ("", "[]", "{", '{"state": 3}'):
        remembered.write_text(content)
        assert check(folder, archives).problems == []


def test_what_was_hashed_while_it_was_unpacked_is_not_hashed_again(tmp_path, folder, archives, monkeypatch):
    put(folder, "x.tar.gz")
    sizes, original = [], oci.hash_stream

    def measure(stream):
        content = stream.read()
        sizes.append(len(content))
        return original(io.BytesIO(content))

    monkeypatch.setattr(oci, "hash_stream", measure)
    assert check(folder, archives, memory=tmp_path / "verified.json").problems == []
    assert sizes, "the control: manifest and configuration are"
    assert max(sizes) < min(len(content) for content in LAYERS)


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_an_export_needs_no_check_before_it(folder, archives, ending):
    put(folder, f"x.{ending}")
    assert [image.reference for image in export(folder, archives)] == [JHUB]


def test_no_room_to_unpack_is_said_before_anything_is_written(tmp_path, folder, archives, monkeypatch):
    put(folder, "x.tar.gz")
    monkeypatch.setattr(image_archive, "MARGIN", 10**18)
    with pytest.raises(BundleError, match=r"x\.tar\.gz is compressed: .* make room"):
        check(folder, archives)
    assert [file.name for file in (tmp_path / "cache/blobs").iterdir()] == [".lock"]


def test_without_a_folder_to_unpack_compressed_archives_are_refused(folder):
    put(folder, "x.tar.gz")
    (problem,) = check(folder, Archives()).fatal
    assert "no folder for what is unpacked" in problem.text


def test_without_zstandard_its_name_is_said(tmp_path, folder):
    put(folder, "x.tar.zst")
    problems = check(folder, Archives(tmp_path / "cache")).fatal
    assert any("no package zstandard" in problem.text and problem.file == "x.tar.zst" for problem in problems)


# ---- hostile and damaged archives


def raw(*members: tuple[str, bytes, dict[str, object]]) -> bytes:
    """A tar of these members: name, content, fields of the header."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:") as tar:
        for name, content, fields in members:
            member = oci.tar_member(name, len(content))
            for field, value in fields.items():
                setattr(member, field, value)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def whole(**changes: bytes) -> dict[str, bytes]:
    return {**docker_files({"myorg/pytorch-jhub:24.10": LAYERS}), **changes}


def listed(**changes: object) -> dict[str, bytes]:
    """A docker archive whose manifest.json is different."""
    (entry,) = json.loads(whole()["manifest.json"])
    return whole(**{"manifest.json": json.dumps([{**entry, **changes}]).encode()})


def configured(**changes: object) -> dict[str, bytes]:
    """A docker archive whose configuration is different, and named by no digest."""
    config = {**json.loads(bundles.configuration(LAYERS)), **changes}
    return {**listed(Config="config.json"), "config.json": json.dumps(config).encode()}


def lying(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar whose first member says that it is `size` bytes."""
    member = oci.tar_member("big", size)
    member.type = kind
    return member.tobuf(tarfile.GNU_FORMAT) + b"x" * 2048


def endless(content: bytes, more: bytes = b"") -> bytes:
    """A tar without its end, or with something else in its place."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        last = tar.getmembers()[-1]
    return content[: last.offset_data + -(-last.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE] + more


LAYER_FILE = bundles.digest(LAYERS[1])[7:] + ".tar"
CONFIG_FILE = bundles.digest(bundles.configuration(LAYERS))[7:] + ".json"
LINK = {"type": tarfile.SYMTYPE}
HOSTILE = [
    ("a path out", raw(("../../etc/cron.d/x", b"x", {})), "leads out of it"),
    ("an absolute path", raw(("/etc/cron.d/x", b"x", {})), "leads out of it"),
    ("a hidden path out", raw(("a/../../x", b"x", {})), "leads out of it"),
    ("a link out", raw(("x", b"", {**LINK, "linkname": "/etc/shadow"})), "leads out of it"),
    ("a relative link out", raw(("a/x", b"", {**LINK, "linkname": "../../x"})), "leads out of it"),
    ("a hard link out", raw(("x", b"", {"type": tarfile.LNKTYPE, "linkname": "../x"})), "leads out of it"),
    ("a device", raw(("sda", b"", {"type": tarfile.BLKTYPE})), "neither a plain file"),
    ("a pipe", raw(("pipe", b"", {"type": tarfile.FIFOTYPE})), "neither a plain file"),
    ("a member twice", raw(("manifest.json", b"[]", {}), ("./manifest.json", b"[]", {})), "'manifest.json' twice"),
    ("a size that lies", lying(10**15), "damaged or cut off"),
    ("a size beyond all", lying(2**62), "damaged or cut off"),
    ("a name of a gigabyte", lying(2**30, tarfile.GNUTYPE_LONGNAME), "a header of 1073741824 bytes"),
    ("attributes of a gigabyte", lying(2**30, tarfile.XHDTYPE), "a header of 1073741824 bytes"),
    ("nothing", b"", "damaged or cut off"),
    ("no tar", b"no archive at all" * 100, "damaged or cut off"),
    ("cut off in a layer", tar_of(whole())[:3000], "damaged or cut off"),
    ("cut off between members", endless(tar_of(whole())), "no end of the archive"),
    ("garbage for a header", endless(tar_of(whole()), b"garbage!" * 1280), "no end of the archive"),
    ("a folder of files", tar_of({"README": b"hello"}), "holds no images"),
    ("Docker before 1.10", tar_of({"repositories": b"{}", "x/layer.tar": b"x"}), "Docker before 1.10"),
    ("no JSON", tar_of(whole(**{"manifest.json": b"[{"})), "not JSON"),
    ("deep JSON", tar_of(whole(**{"manifest.json": b"[" * 100_000})), "not JSON"),
    ("no list", tar_of(whole(**{"manifest.json": b"{}"})), "a list is missing"),
    ("no objects", tar_of(whole(**{"manifest.json": b"[[]]"})), "names no configuration"),
    ("no layers", tar_of(listed(Layers=None)), "a list is missing"),
    ("a layer that is not there", tar_of(listed(Layers=["x.tar", LAYER_FILE])), "x.tar: is missing"),
    ("a layer too few", tar_of(listed(Layers=[LAYER_FILE])), "has 1 layers"),
    ("a name that is none", tar_of(listed(RepoTags=["../../x:1"])), "RepoTags"),
    ("a configuration elsewhere", tar_of(listed(Config="../../etc/passwd")), "is missing"),
    ("another configuration", tar_of(whole(**{CONFIG_FILE: b"{}"})), "its content has the digest"),
    ("no digests of layers", tar_of(configured(rootfs={"diff_ids": ["a", "b"]})), "states 2 digests"),
    ("no rootfs", tar_of(configured(rootfs=None)), "a list is missing"),
    ("a layer compressed by xz", tar_of(whole(**{LAYER_FILE: lzma.compress(b"x")})), "compressed by xz"),
    ("gzip that is cut off", gzip.compress(tar_of(whole()))[:-20], "damaged or cut off"),
    ("gzip with a wrong sum", gzip.compress(tar_of(whole()))[:-8] + b"\0" * 8, "damaged or cut off"),
    ("zstd that is cut off", zstandard.compress(os.urandom(4000) + tar_of(whole()))[:3000], "damaged or cut off"),
    ("zstd that is none", b"\x28\xb5\x2f\xfd" + b"x" * 100, "damaged or cut off"),
    ("no descriptor", tar_of({"index.json": b'{"manifests": [{"digest": "x"}]}'}), "is not a digest"),
    ("an index of nothing", tar_of({"index.json": b"{}"}), "has no list 'manifests'"),
    (
        "a manifest that is not there",
        tar_of({"index.json": json.dumps({"manifests": [{"digest": "sha256:" + "0" * 64, "size": 1}]}).encode()}),
        "is missing",
    ),
]


@pytest.mark.parametrize(("content", "words"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_an_archive_that_is_wrong_is_refused_in_one_line_and_nothing_is_written(
    tmp_path, folder, archives, content, words
):
    (folder / "evil.tar").write_bytes(content)
    before = sorted(path for path in tmp_path.rglob("*"))
    holding = check(folder, archives, "myorg/other:1")
    (problem,) = (problem for problem in holding.fatal if problem.file == "evil.tar")
    assert (problem.category, problem.subject) == ("corrupt", "archive evil.tar")
    assert words in problem.text
    assert "\n" not in problem.text
    assert "take it out of the folder" in problem.cure
    assert [path for path in sorted(tmp_path.rglob("*")) if "cache" not in path.parts] == before


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.zst"])
def test_a_layer_that_is_not_what_its_configuration_says_is_refused(folder, archives, ending):
    files = whole(**{LAYER_FILE: layer("something else")})
    (folder / f"evil.{ending}").write_bytes(COMPRESSIONS[ending](tar_of(files)))
    (problem,) = check(folder, archives).fatal
    assert (problem.category, problem.subject, problem.file) == ("corrupt", f"image {JHUB}", f"evil.{ending}")
    assert "has the digest" in problem.text
    with pytest.raises(oci.LayoutError):
        export(folder, archives)


def test_a_layer_that_a_layout_does_not_hold_is_named(tmp_path, folder, archives):
    writer = bundles.LayoutWriter(tmp_path / "layout")
    writer.name("myorg/pytorch-jhub:24.10", writer.manifest(LAYERS))
    writer.file(bundles.digest(LAYERS[0])).unlink()
    (folder / "x.tar").write_bytes(tar_of(tree(tmp_path / "layout")))
    (problem,) = check(folder, archives).fatal
    assert (problem.text, problem.file, problem.digest) == ("does not hold it", "x.tar", bundles.digest(LAYERS[0]))


def test_a_link_out_of_the_folder_is_refused(tmp_path, folder, archives):
    put(tmp_path, "outside.tar")
    (folder / "x.tar").symlink_to(tmp_path / "outside.tar")
    (folder / "gone.tar").symlink_to(tmp_path / "nowhere.tar")
    texts = {problem.file: problem.text for problem in check(folder, archives).fatal}
    assert "leads out of the bundle" in texts["x.tar"]
    assert "leads out of the bundle" in texts["gone.tar"]


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [("MAX_MEMBERS", 2, "more than 2 files"), ("MAX_TOTAL", 4096, "damaged or cut off"), ("MAX_HEADER", 100, "header")],
)
def test_there_is_an_end_to_what_an_archive_may_ask_for(folder, archives, monkeypatch, limit, value, words):
    monkeypatch.setattr(untrusted_tar, limit, value)
    put(folder, "x.tar.gz")
    assert any(words in problem.text for problem in check(folder, archives).fatal)


def test_there_is_an_end_to_its_documents(folder, archives, monkeypatch):
    monkeypatch.setattr(image_archive, "MAX_DOCUMENTS", 100)
    put(folder)
    assert any("more than 100 bytes of JSON" in problem.text for problem in check(folder, archives).fatal)


def test_a_name_cannot_write_into_the_report(folder, archives):
    (folder / "x.tar").write_bytes(raw(("../\x1b[2J\nroot", b"", {})))
    assert "\x1b" not in core.report(folder, check(folder, archives).problems)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x50\x2a\x4d\x18", "zstd"),  # pzstd
        (b"\xfd7zXZ\x00", "xz"),
        (b"BZh9", "bzip2"),
        (b"manifest", ""),
        (b"", ""),
    ],
)
def test_compression_is_told_from_the_content(start, expected):
    assert untrusted_tar.compression(start) == expected


def test_long_work_tells_how_far_it_is(tmp_path, folder):
    path = put(folder, "x.tar.gz")
    told = []
    archives = Archives(tmp_path / "cache", zstd.opener(), lambda *step: told.append(step))
    needs = core.Needs(images={JHUB: "the notebook"})
    core.check(folder, needs, archives=archives, progress=lambda *step: told.append(step))
    with (tmp_path / "export.tar").open("wb") as sink:
        chosen = image_selection(core.Bundle(folder, archives), [JHUB], "linux/amd64")
        write_images(sink, chosen, (), lambda *step: told.append(step))
    assert {what for what, _, _ in told} == {"reading x.tar.gz", "verifying", "writing an archive of images"}
    assert all(done >= 0 for _, done, _ in told)
    assert {total for what, _, total in told if what.startswith("reading")} == {path.stat().st_size}
    finished = [(done, total) for what, done, total in told if what == "verifying"][-1]
    assert finished[0] == finished[1]


# ---- whatever happens to an archive


def damaged(content: bytes, random: Random) -> bytes:
    """`content` with one fault: bits flipped, cut off, a piece repeated, moved, or overwritten."""
    changed = bytearray(content)
    kind = random.randrange(5)
    one, other = sorted(random.sample(range(len(content)), 2))
    if kind == 0:
        for _ in range(random.randint(1, 8)):
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    elif kind == 1:
        del changed[one:]
    elif kind == 2:
        changed[one:one] = content[one:other]
    elif kind == 3:
        changed = changed[other:] + changed[:other]
    else:
        changed[one:other] = random.randbytes(other - one)
    return bytes(changed)


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.zst"])
@pytest.mark.parametrize("form", ["docker", "layout"])
def test_no_damage_is_taken_for_the_image(tmp_path, folder, ending, form):
    """Refused, or harmless: what is taken has the very digests of the image as it was."""
    if form == "docker":
        files = docker_files({"myorg/pytorch-jhub:24.10": LAYERS}, legacy=True)
    else:
        writer = bundles.LayoutWriter(tmp_path / "layout")
        writer.name("myorg/pytorch-jhub:24.10", writer.manifest(LAYERS))
        files = tree(tmp_path / "layout")
    path = folder / f"x.{ending}"
    # Half of the faults are planted before compression, whose own checksum would find them before we do.
    plain = tar_of(files)
    path.write_bytes(COMPRESSIONS[ending](plain))
    whole_image = check(folder, Archives(tmp_path / "first", zstd.opener())).images[JHUB]
    cases, refused = sample.size(40, 170), 0
    for seed in range(cases):
        random = Random(f"{form} {ending} {seed}")
        inside = damaged(plain, random) if seed % 2 else plain
        content = COMPRESSIONS[ending](inside)
        path.write_bytes(content if seed % 2 else damaged(content, random))
        holding = check(folder, Archives(tmp_path / f"cache{seed}", zstd.opener()))
        if holding.fatal:
            refused += 1
            assert holding.images == {}, seed
        else:
            assert holding.images[JHUB] == whole_image, seed
    assert refused > cases // 2, "the control: most damage is refused"
