"""Artefact `bundle`: everything an air-gapped installation needs, in one folder with a manifest."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import yaml

from . import catalogue, chart, debs, images, kube, snaps, wheels
from .cache import artefact
from .process import LabError

# Of the lab's hosts, as their /etc/os-release says.
DISTRIBUTION = "debian-13"


def build() -> Path:
    """The bundle folder. Its files are hard links into other artefacts: copy a bundle before changing one."""
    parts = {"oci": images.build(), "snaps": snaps.build(), "wheels": wheels.build(), "debs": debs.build()}
    helm, archive = kube.build() / "helm", _chart()

    def assemble(folder: Path) -> None:
        _place(parts["oci"] / "oci", folder / "oci")
        _place(parts["snaps"], folder / "snaps")
        _place(parts["wheels"], folder / "wheels")
        _place(parts["debs"], folder / "debs")
        _place(archive, folder / "charts" / archive.name)
        _place(helm, folder / "bin" / "helm-linux-amd64")
        listed = json.loads((parts["oci"] / "images.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest(folder, listed), indent=1) + "\n")

    inputs = [
        Path(__file__),
        Path(debs.__file__),
        catalogue.PATH,
        helm,
        archive,
        *(f"{name} {path.name}" for name, path in parts.items()),
    ]
    return artefact("bundle", inputs, assemble)


def manifest(bundle: Path, listed_images: list[dict[str, Any]]) -> dict[str, Any]:
    """Manifest (schema 1) of a bundle folder whose OCI layout holds `listed_images`."""
    return {
        "schema": 1,
        "images": [{**image, "archive": "oci"} for image in listed_images],
        "snaps": [_snap(bundle, file) for file in sorted(bundle.glob("snaps/*.snap"))],
        "charts": [_described(bundle, file, **_chart_facts(file)) for file in sorted(bundle.glob("charts/*.tgz"))],
        "binaries": [
            _described(
                bundle,
                bundle / "bin/helm-linux-amd64",
                name="helm",
                platform="linux/amd64",
                version=catalogue.load()["helm"]["version"],
            )
        ],
        "wheels": [
            _described(bundle, file, name=wheels.canonical(file.name.split("-")[0]), version=file.name.split("-")[1])
            for file in sorted(bundle.glob("wheels/*.whl"))
        ],
        "debs": [
            _described(bundle, file, distribution=DISTRIBUTION, **debs.fields(file))
            for file in sorted(bundle.glob("debs/*.deb"))
        ],
    }


def digest(file: Path) -> str:
    """`sha256:<hex>` of a file's content."""
    with file.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def _described(bundle: Path, file: Path, **facts: Any) -> dict[str, Any]:
    return {**facts, "file": file.relative_to(bundle).as_posix(), "digest": digest(file), "size": file.stat().st_size}


def _snap(bundle: Path, file: Path) -> dict[str, Any]:
    """A snap's entry: name and revision from its file name, version and confinement from its own metadata."""
    named = re.fullmatch(r"(.+)_(\d+)\.snap", file.name)
    assertion = file.with_suffix(".assert")
    if not named or not assertion.exists():
        raise LabError(f"{file}: not named NAME_REVISION.snap, or without {assertion.name} beside it")
    meta = yaml.safe_load(
        subprocess.run(["unsquashfs", "-cat", file, "meta/snap.yaml"], check=True, capture_output=True).stdout
    )
    return _described(
        bundle,
        file,
        name=named[1],
        revision=named[2],
        version=str(meta["version"]),
        classic=meta.get("confinement") == "classic",
        assertion=f"snaps/{assertion.name}",
        assertion_digest=digest(assertion),
    )


def _chart_facts(file: Path) -> dict[str, str]:
    with tarfile.open(file) as archive:
        member = next(name for name in archive.getnames() if name.count("/") == 1 and name.endswith("/Chart.yaml"))
        facts = yaml.safe_load(archive.extractfile(member))
    return {"name": facts["name"], "version": facts["version"]}


def _chart() -> Path:
    """The chart archive: an official one that the environment names, else the lab's double."""
    official = os.environ.get("GPUHUB_Z2JH_CHART")
    if official:
        if not Path(official).is_file():
            raise LabError(f"GPUHUB_Z2JH_CHART={official}: no such file; name a jupyterhub-4.x.tgz")
        return Path(official).resolve()
    (double,) = chart.build().glob("*.tgz")
    return double


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=images.link)
    else:
        images.link(source, target)
