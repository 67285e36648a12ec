"""The modules of the control node: checking a bundle, exporting from it, asking a chart."""

from __future__ import annotations

import tarfile

import pytest

from ..module_utils import bundles
from ..module_utils.bundles import HUB, PAUSE, Bundle
from .runner import run


@pytest.fixture
def bundle(tmp_path):
    return Bundle(tmp_path / "bundle")


NEEDS = {
    "images": {PAUSE: "every node", HUB: "chart jupyterhub"},
    "snaps": {"microk8s": "1.34"},
    "charts": {"jupyterhub": "4.4.0"},
    "binaries": {"helm": "linux/amd64"},
    "wheels": ["demo==1.0"],
    "python_versions": ["3.11.2"],
    "packages": ["nginx"],
    "distribution": "debian-13",
}


def check(bundle, **arguments):
    return run("bundle_check", bundle=bundle.folder, **{**NEEDS, **arguments})


def test_a_whole_bundle(bundle):
    result = check(bundle)
    assert (result["changed"], result["complete"], result["problems"]) == (False, True, [])
    assert result["digests"] == bundle.digests
    assert result["summary"].startswith("2 images, 1 snap, 1 chart, 1 program, 2 wheels, 2 Debian packages (")
    (snap,) = result["snaps"]
    assert snap["file"] == str(bundle.folder / "snaps/microk8s_1.snap")
    assert snap["assertion"] == str(bundle.folder / "snaps/microk8s_1.assert")
    assert snap["classic"] is True


def test_digests_are_returned_under_the_names_asked_for(bundle):
    bundle.manifest["images"][0]["reference"] = "docker.io/library/busybox:1"
    bundle.write()
    index = bundle.oci.folder / "index.json"
    index.write_text(index.read_text().replace(PAUSE, "busybox:1"))
    result = check(bundle, images={"busybox:1": "me", HUB: "me"})
    assert set(result["digests"]) == {"busybox:1", HUB}
    assert "docker.io/library/busybox:1" in result["images"]


def test_problems_fail_with_the_report_or_are_only_reported(bundle):
    bundles.flip(bundle.layer(HUB))
    failed = check(bundle)
    assert failed["failed"]
    assert f"image {HUB}" in failed["msg"]
    reported = check(bundle, report_only=True)
    assert reported["report"] == failed["msg"]
    assert not reported.get("failed")
    assert not reported["complete"]
    assert set(reported["digests"]) == {PAUSE}


@pytest.mark.parametrize(
    "arguments",
    [{"python_versions": []}, {"python_versions": ["2.7"]}, {"distribution": ""}, {"bundle": "/not/there"}],
)
def test_wrong_arguments_are_said(bundle, arguments):
    assert run("bundle_check", **{"bundle": bundle.folder, **NEEDS, **arguments})["failed"]


def test_an_export_is_made_once_under_the_name_of_its_content(bundle, tmp_path):
    def export(**arguments):
        return run("bundle_export", bundle=bundle.folder, cache=tmp_path / "cache", **arguments)

    assert export(images=[PAUSE], check=True)["changed"]
    assert not (tmp_path / "cache").exists()
    first = export(images=[PAUSE])
    second = export(images=["registry.k8s.io/pause:3.10"])
    assert (first["changed"], second["changed"]) == (True, False)
    assert first["path"] == second["path"]
    assert export(images=[HUB])["path"] != first["path"]
    assert first["size"] == (tmp_path / "cache" / first["path"]).stat().st_size


def test_a_damaged_file_is_not_exported(bundle, tmp_path):
    bundles.flip(bundle.layer(HUB))
    bundles.flip(bundle.folder / "bin/helm")
    for what in ({"images": [HUB]}, {"files": ["bin/helm"]}):
        failed = run("bundle_export", bundle=bundle.folder, cache=tmp_path / "cache", **what)
        assert "its content has the digest" in failed["msg"]
    assert not list((tmp_path / "cache").glob("*.tar"))
    assert not list((tmp_path / "cache").glob(".*.partial"))


def test_files_are_exported_under_their_base_names(bundle, tmp_path):
    path = run("bundle_export", bundle=bundle.folder, files=["bin/helm"], path=tmp_path / "x.tar")["path"]
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["helm"]
    failed = run("bundle_export", bundle=bundle.folder, files=["../etc/passwd"], path=tmp_path / "y.tar")
    assert "does not name ../etc/passwd" in failed["msg"]


def test_what_the_bundle_does_not_hold_is_not_exported(bundle, tmp_path):
    failed = run("bundle_export", bundle=bundle.folder, images=["quay.io/not/there:1"], path=tmp_path / "x.tar")
    assert "does not hold quay.io/not/there:1" in failed["msg"]


HELM = """#!/bin/sh
for value; do last=$value; done
test "$1" = template || exit 3
cat "$3"
"""


@pytest.fixture
def chart(tmp_path):
    """A file that our helm prints as it is."""
    helm, file = tmp_path / "helm", tmp_path / "chart.yaml"
    helm.write_text(HELM)
    file.write_text("kind: Pod\nspec:\n  containers: [{image: 'a:1'}]\n---\n---\nkind: Service\n")
    return {"helm": helm, "chart": file}


@pytest.mark.parametrize("mode", [0o755, 0o644])
def test_images_of_a_chart(chart, mode):
    chart["helm"].chmod(mode)
    result = run("chart_images", **chart, values={"x": 1}, extra=["b:1"])
    assert result["images"] == ["docker.io/library/a:1", "docker.io/library/b:1"]
    assert chart["helm"].stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chart": "/not/there.tgz"}, "/not/there.tgz is not there"),
        ({"extra": ["Not a name"]}, "Not a name"),
    ],
)
def test_a_chart_that_cannot_be_asked(chart, change, words):
    chart["helm"].chmod(0o755)
    assert words in run("chart_images", **{**chart, **change})["msg"]


def test_what_helm_says_is_quoted(chart):
    chart["helm"].write_text("#!/bin/sh\necho 'Error: values do not meet the schema' >&2; exit 1\n")
    chart["helm"].chmod(0o755)
    assert "values do not meet the schema" in run("chart_images", **chart)["msg"]


def test_what_helm_prints_that_is_no_yaml_is_said(chart):
    chart["helm"].chmod(0o755)
    chart["chart"].write_text("a: [")
    assert run("chart_images", **chart)["failed"]
