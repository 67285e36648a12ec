"""What docs/air-gap.md tells people to do is what the collection needs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible_collections.gpuhub.platform.plugins.module_utils import bundle, jhub_env

REPOSITORY = Path(__file__).resolve().parents[2]
GUIDE = (REPOSITORY / "docs/air-gap.md").read_text(encoding="utf-8")
CATALOGUE = yaml.safe_load((REPOSITORY / "vars/catalogue.yml").read_text(encoding="utf-8"))
EXAMPLE = REPOSITORY / "tests/unit/plugins/module_utils/jhub.env.example"
# Programs that the guide's own needs, as far as it calls them.
UNSQUASHFS = """#!/bin/sh
[ "$1 $3" = "-cat meta/snap.yaml" ] && cat "$2"
"""
DPKG_DEB = """#!/bin/sh
[ "$1" = --field ] && sed -n "s/^$3: //p" "$2"
"""


def block(start: str) -> str:
    """The block of the guide that begins with these fences and words."""
    return re.search(rf"^```{start}.*?^```$", GUIDE, re.MULTILINE | re.DOTALL)[0].partition("\n")[2].removesuffix("```")


def test_images_are_those_of_the_catalogue():
    provisioner = CATALOGUE["local_path_provisioner"]
    assert set(block(r"\ndocker\.io/").split()) == {
        *CATALOGUE["calico"]["images"],
        CATALOGUE["pause"]["image"],
        CATALOGUE["coredns"]["image"],
        CATALOGUE["registry"]["image"],
        CATALOGUE["postgresql"]["image"],
        provisioner["helper_image"],
        f"{provisioner['image']}:{provisioner['version']}",
    }


@pytest.mark.parametrize(
    ("pattern", "versions"),
    [
        (r"snap download (\S+)", set(CATALOGUE["microk8s"]["snaps"])),
        (r"--channel=(\S+)", {CATALOGUE["microk8s"]["channel"]}),
        (r"kube_version=(\S+)", {CATALOGUE["microk8s"]["channel"].partition("/")[0]}),
        (r"helm-(v[\d.]+\d)-", {CATALOGUE["helm"]["version"]}),
        (r'name="helm", version="(\S+?)"', {CATALOGUE["helm"]["version"]}),
        (r"pull jupyterhub .* --version (\S+)", {CATALOGUE["jupyterhub"]["version"]}),
        (r"--tag (\S+usage-portal:\S+\d)", {CATALOGUE["usage_portal"]["image"]}),
        (r"images.tar (\S+)", {CATALOGUE["usage_portal"]["image"]}),
        (r"charts/jupyterhub-([\d.]+\d)\.tgz", {CATALOGUE["jupyterhub"]["version"]}),
    ],
)
def test_versions_are_those_of_the_catalogue(pattern, versions):
    assert set(re.findall(pattern, GUIDE)) == versions


def test_the_manifest_of_the_guide_makes_a_bundle(tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, script in (("unsquashfs", UNSQUASHFS), ("dpkg-deb", DPKG_DEB)):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    folder = tmp_path / "bundle"
    files = {
        "snaps/microk8s_8695.snap": "name: microk8s\nversion: v1.34.4\nconfinement: classic\n",
        "snaps/core22_2139.snap": "name: core22\nversion: '20250923'\n",
        "charts/jupyterhub-4.4.0.tgz": "chart",
        "bin/helm-linux-amd64": "helm",
        "debs/nginx_1.24_amd64.deb": "Package: nginx\nVersion: 1.24\nArchitecture: amd64\nDepends: nginx-common\n",
        "debs/nginx-common_1.24_all.deb": "Package: nginx-common\nVersion: 1.24\nArchitecture: all\n",
        **{f"snaps/{name}.assert": name for name in ("microk8s_8695", "core22_2139")},
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    made = subprocess.run(
        [sys.executable, "-c", block("python"), "ubuntu-24.04"], cwd=folder, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    needs = bundle.Needs(
        snaps={"core22": "", "microk8s": "1.34"}, charts={"jupyterhub": "4.4.0"}, binaries={"helm": "linux/amd64"},
        packages=("nginx",), distribution="ubuntu-24.04", installed=("libc6",),
    )  # fmt: skip
    held = bundle.check(folder, needs)
    assert held.problems == []
    assert {(item.name, item.version, item.classic) for item in held.items if item.kind == "snap"} == {
        ("microk8s", "v1.34.4", True), ("core22", "20250923", False),
    }  # fmt: skip
    assert set(held.debs) == {name for name in files if name.startswith("debs/")}


def test_the_old_settings_file_deploys_by_the_line_of_the_guide():
    ignored = re.search(r"-e gpuhub_env_ignore=(\S+)", GUIDE)[1].split(",")
    assert jhub_env.read(EXAMPLE.read_text(encoding="utf-8"), ignored).problems() == []
    # The control: without it there are some.
    assert jhub_env.read(EXAMPLE.read_text(encoding="utf-8")).problems()
