"""What a bundle holds against what is needed; each test plants one fault."""

from __future__ import annotations

import copy
import json
import os

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import bundle as core
from ansible_collections.gpuhub.platform.plugins.module_utils import bundle_manifest
from ansible_collections.gpuhub.platform.plugins.module_utils.verified_files import VerifiedFiles

from . import bundles
from .bundles import HUB, PAUSE, Bundle

NEEDS = core.Needs(
    images={PAUSE: "every node", "quay.io/jupyterhub/k8s-hub:4.4.0": "chart jupyterhub"},
    snaps={"microk8s": "1.34"},
    charts={"jupyterhub": "4.4.0"},
    binaries={"helm": "linux/amd64"},
    requirements=("demo==1.0",),
    interpreters=("3.9", "3.13"),
    packages=("nginx",),
    distribution="debian-13",
)


@pytest.fixture
def bundle(tmp_path):
    return Bundle(tmp_path / "bundle")


def check(bundle, needs=NEEDS, **changes):
    return core.check(bundle.folder, needs._replace(**changes))


@pytest.mark.parametrize("packed", [False, True])
def test_a_whole_bundle_has_no_problems(bundle, packed):
    if packed:
        bundle.pack()
    holding = check(bundle)
    assert holding.problems == []
    assert {reference: image.digest for reference, image in holding.images.items()} == bundle.digests
    assert [item.name for item in holding.items] == ["microk8s", "jupyterhub", "helm"]
    assert set(holding.wheels) == {"wheels/demo-1.0-py3-none-any.whl", "wheels/helper-2.1-py3-none-any.whl"}
    assert holding.debs == {file: bundle.digest_of(file) for file in FILES if file.startswith("debs/")}


FILES = [
    "snaps/microk8s_1.snap",
    "snaps/microk8s_1.assert",
    "charts/jupyterhub-4.4.0.tgz",
    "bin/helm",
    "wheels/demo-1.0-py3-none-any.whl",
    "wheels/helper-2.1-py3-none-any.whl",
    "debs/nginx_1_amd64.deb",
    "debs/nginx-common_1_all.deb",
]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    ("damage", "category"),
    [(bundles.flip, "corrupt"), (bundles.truncate, "corrupt"), (lambda path: path.unlink(), "missing")],
)
def test_every_damaged_file_is_named(bundle, file, damage, category):
    damage(bundle.folder / file)
    holding = check(bundle)
    assert {(problem.category, problem.file) for problem in holding.fatal if problem.digest} == {(category, file)}
    text = core.report(bundle.folder, holding.problems)
    assert f"file:   {file}" in text
    assert "cure:   copy it again" in text


def test_a_cut_off_file_is_named_with_its_sizes(bundle):
    size = (bundle.folder / "bin/helm").stat().st_size
    bundles.truncate(bundle.folder / "bin/helm")
    (problem,) = check(bundle).fatal
    assert problem.text == f"has {size // 2} bytes instead of {size}"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("damage", [bundles.flip, bundles.truncate, lambda path: path.unlink()])
def test_a_damaged_layer_is_named_with_its_image(bundle, damage, packed):
    layer = bundle.layer(HUB)
    damage(layer)
    if packed:
        bundle.pack()
    holding = check(bundle)
    (problem,) = holding.fatal
    assert problem.subject == f"image {HUB}"
    assert problem.digest == f"sha256:{layer.name}"
    assert layer.name in problem.file
    assert set(holding.images) == {PAUSE}


def test_a_layer_that_images_share_is_reported_for_each(bundle):
    bundles.flip(bundle.layer(PAUSE))
    holding = check(bundle)
    assert {problem.subject for problem in holding.fatal} == {f"image {PAUSE}", f"image {HUB}"}
    assert holding.images == {}


def test_a_damaged_manifest_blob_is_named(bundle):
    bundles.flip(bundle.oci.file(bundle.digests[HUB]))
    (problem,) = check(bundle).fatal
    assert (problem.category, problem.subject) == ("corrupt", f"image {HUB}")


def test_another_image_under_the_name_is_named(bundle):
    other = bundle.oci.manifest([b"not the hub"])
    index = json.loads((bundle.oci.folder / "index.json").read_text())
    index["manifests"][1].update(digest=other["digest"], size=other["size"])
    (bundle.oci.folder / "index.json").write_text(json.dumps(index))
    (problem,) = check(bundle).fatal
    assert problem.category == "corrupt"
    assert other["digest"] in problem.text
    assert bundle.digests[HUB] in problem.text


@pytest.mark.parametrize(
    ("changes", "category", "subject", "words"),
    [
        ({"images": {"quay.io/not/there:1": "me"}}, "missing", "image quay.io/not/there:1", "needed by me"),
        ({"images": {"Not a name": "chart x"}}, "missing", "image Not a name", "not part of a repository"),
        ({"images": {f"{HUB}@sha256:{'0' * 64}": "me"}}, "corrupt", f"image {HUB}@sha256:{'0' * 64}", "asked for"),
        ({"snaps": {"core22": ""}}, "missing", "snap core22", "does not name core22"),
        ({"snaps": {"microk8s": "1.33"}}, "missing", "snap microk8s", "needed: 1.33; the bundle holds v1.34.4"),
        ({"snaps": {"microk8s": "1.3"}}, "missing", "snap microk8s", "needed: 1.3;"),
        ({"charts": {"jupyterhub": "4.2.0"}}, "missing", "chart jupyterhub", "needed: 4.2.0; the bundle holds 4.4.0"),
        ({"binaries": {"helm": "linux/arm64"}}, "wrong platform", "binary helm", "the bundle holds linux/amd64"),
        ({"requirements": ("demo==2.0",)}, "missing", "wheel demo==2.0", "the newest that fits Python 3.9 is 1.0"),
        ({"packages": ("ufw",)}, "missing", "deb ufw", "manifest.json does not name it"),
        ({"distribution": "ubuntu-24.04"}, "wrong platform", "deb nginx", "the bundle holds it for debian-13/amd64"),
        ({"platform": "linux/amd64", "packages": ("nginx", "ufw")}, "missing", "deb ufw", "does not name it"),
        ({"requirements": ("nothing==1",)}, "missing", "wheel nothing==1", "no wheel for Python 3.9"),
    ],
)
def test_what_is_missing_is_named_with_who_needs_it(bundle, changes, category, subject, words):
    holding = check(bundle, **{"interpreters": ("3.9",), **changes})
    (problem,) = holding.fatal
    assert (problem.category, problem.subject) == (category, subject)
    assert words in problem.text
    assert subject in core.report(bundle.folder, holding.problems)


def test_an_image_asked_for_by_its_digest_too_is_found(bundle):
    reference = f"{HUB}@{bundle.digests[HUB]}"
    assert set(check(bundle, images={reference: "me"}).images) == {reference}


def test_what_a_wheel_needs_is_needed_too(bundle):
    bundle.manifest["wheels"].pop()
    bundle.write()
    (problem,) = check(bundle, interpreters=("3.11",)).fatal
    assert problem.subject == "wheel helper>=2"
    assert "needed by demo 1.0" in problem.text


def test_what_a_package_needs_is_needed_too(bundle):
    bundle.manifest["debs"].pop()
    bundle.write()
    (problem,) = check(bundle, installed=("libc6",)).fatal
    assert (problem.category, problem.subject) == ("missing", "deb nginx-common")
    assert "needed by nginx" in problem.text
    assert check(bundle, installed=("libc6", "nginx-common")).fatal == []
    assert check(bundle).fatal == [], "nobody says what the hosts have"


@pytest.mark.parametrize("where", ["manifest", "configuration"])
def test_the_wrong_platform_is_named(bundle, where):
    if where == "manifest":
        bundle.manifest["images"][1]["platform"] = "linux/arm64"
    else:
        arm = bundle.oci.name(HUB, bundle.oci.manifest([b"arm"], "arm64"))
        bundle.manifest["images"][1].update(digest=arm["digest"], size=bundles.image_size(bundle.oci, arm))
    bundle.write()
    holding = check(bundle)
    (problem,) = holding.fatal
    assert (problem.category, problem.subject) == ("wrong platform", f"image {HUB}")
    assert "linux/arm64" in problem.text


def test_a_stated_size_that_is_wrong_is_named(bundle):
    bundle.manifest["images"][1]["size"] += 1
    bundle.write()
    (problem,) = check(bundle).fatal
    assert "manifest.json states" in problem.text


def test_what_nobody_needs_is_no_error(bundle):
    holding = check(bundle, images={PAUSE: "x"}, charts={}, binaries={}, packages=())
    assert holding.fatal == []
    assert [problem.subject for problem in holding.problems] == [
        "binary helm v3.19.5",
        "chart jupyterhub 4.4.0",
        "deb nginx 1",
        "deb nginx-common 1",
        f"image {HUB}",
    ]
    assert "5 superfluous" in core.report(bundle.folder, holding.problems)


def test_everything_is_in_one_report(bundle):
    bundles.flip(bundle.layer(HUB))
    (bundle.folder / "bin/helm").unlink()
    bundle.manifest["images"][0]["platform"] = "linux/arm64"
    bundle.write()
    text = core.report(bundle.folder, check(bundle, charts={}).problems)
    assert text.splitlines()[0].endswith("1 missing, 1 corrupt, 1 wrong platform, 1 superfluous")


@pytest.mark.parametrize(("file", "said"), [("bin/helm", True), ("snaps/microk8s_1.snap", False)])
def test_a_report_says_when_it_cannot_know_all_images(bundle, file, said):
    bundles.flip(bundle.folder / file)
    assert ("Images of charts are not in this report" in core.report(bundle.folder, check(bundle).problems)) is said


def test_a_link_out_of_the_bundle_is_refused(bundle, tmp_path):
    helm = bundle.folder / "bin/helm"
    helm.rename(tmp_path / "outside")
    helm.symlink_to(tmp_path / "outside")
    (problem,) = check(bundle).fatal
    assert "leads out of the bundle" in problem.text


# ---- manifest.json


def change(*path):
    """A function that sets the value at a path of the manifest."""

    def apply(document, value):
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return apply


def remove(*path):
    def apply(document, _value):
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return apply


@pytest.mark.parametrize(
    ("apply", "value", "words"),
    [
        (change("schema"), 2, "schema is 2"),
        (remove("schema"), None, "schema is None"),
        (change("images"), {}, "images is an object, a list is expected"),
        (change("images", 0), "x", "images[0] is a text, an object is expected"),
        (change("images", 0, "reference"), "../x", "images[0].reference cannot be read"),
        (change("images", 0, "digest"), "sha256:00", "images[0].digest is 'sha256:00'"),
        (remove("images", 1, "digest"), None, "images[1].digest is missing"),
        (change("images", 0, "size"), "12", "images[0].size is '12'"),
        (change("images", 0, "size"), -1, "images[0].size is -1"),
        (change("images", 0, "size"), True, "images[0].size is True"),
        (change("images", 0, "archive"), "/etc", "images[0].archive is '/etc'"),
        (change("images", 0, "archive"), "oci/../../x", "a path inside the bundle is expected"),
        (change("images", 0, "archive"), "a\\b", "a path inside the bundle is expected"),
        (change("images", 0, "archive"), "a\nb", "a path inside the bundle is expected"),
        (change("images", 0, "platform"), None, "images[0].platform is None"),
        (change("snaps", 0, "file"), "../../etc/shadow", "snaps[0].file is '../../etc/shadow'"),
        (change("snaps", 0, "classic"), "yes", "snaps[0].classic is 'yes'"),
        (remove("snaps", 0, "assertion"), None, "snaps[0].assertion is missing"),
        (remove("binaries", 0, "platform"), None, "binaries[0].platform is missing"),
        (change("wheels", 1, "digest"), 7, "wheels[1].digest is 7"),
        (remove("debs", 0, "distribution"), None, "debs[0].distribution is missing"),
        (change("debs", 1, "architecture"), 64, "debs[1].architecture is 64"),
        (change("charts", 0, "version"), "", "charts[0].version is ''"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_field(bundle, apply, value, words):
    document = copy.deepcopy(bundle.manifest)
    apply(document, value)
    with pytest.raises(bundle_manifest.BundleError) as caught:
        bundle_manifest.parse_manifest(json.dumps(document))
    assert words in str(caught.value)
    assert str(caught.value).startswith("manifest.json: ")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"schema": 1, "images": [', "[" * 100_000])
def test_what_is_no_manifest_is_refused(content):
    with pytest.raises(bundle_manifest.BundleError, match=r"manifest\.json"):
        bundle_manifest.parse_manifest(content)


def test_one_name_with_two_digests_is_refused(bundle):
    bundle.manifest["images"].append({**bundle.manifest["images"][0], "digest": bundle.digests[HUB]})
    with pytest.raises(bundle_manifest.BundleError, match="has two digests"):
        bundle_manifest.parse_manifest(json.dumps(bundle.manifest))


def test_no_bundle_is_said_with_its_place(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(bundle_manifest.BundleError, match="there is no bundle here") as caught:
            bundle_manifest.load(folder)
        assert str(folder) in str(caught.value)
        assert "offline_images_bundle" in str(caught.value)


# ---- memory


def test_what_has_not_changed_is_not_hashed_again(bundle, tmp_path):
    memory = tmp_path / "memory.json"
    core.check(bundle.folder, NEEDS, VerifiedFiles(memory))
    known = json.loads(memory.read_text())
    calls = []
    layer = bundle.layer(HUB)
    again = VerifiedFiles(memory)
    again.check(layer, 0, f"sha256:{layer.name}", lambda: calls.append("hashed"))
    assert calls == []
    again.check(layer, 0, f"sha256:{'0' * 64}", lambda: calls.append("hashed"))
    assert calls == ["hashed"]
    assert len(known) == len(FILES) + 6, "every file and every blob once"


def test_a_file_edited_with_its_time_put_back_is_found(bundle, tmp_path):
    memory = tmp_path / "memory.json"
    core.check(bundle.folder, NEEDS, VerifiedFiles(memory))
    layer = bundle.layer(HUB)
    status = layer.stat()
    bundles.flip(layer)
    os.utime(layer, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert core.check(bundle.folder, NEEDS, VerifiedFiles(memory)).fatal != []


def test_a_bad_result_is_not_remembered(bundle, tmp_path):
    memory = tmp_path / "memory.json"
    bundles.flip(bundle.layer(HUB))
    for _ in range(2):
        assert core.check(bundle.folder, NEEDS, VerifiedFiles(memory)).fatal != []


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 3}'])
def test_a_broken_memory_is_no_memory(bundle, tmp_path, content):
    memory = tmp_path / "memory.json"
    memory.write_text(content)
    assert core.check(bundle.folder, NEEDS, VerifiedFiles(memory)).problems == []
