"""The bundle that the lab builds: whole, as its manifest says, and free of traces of the machine that built it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import bundle as product
from ansible_collections.gpuhub.platform.plugins.module_utils.bundle_manifest import KINDS
from pip._internal.models.index import PyPI

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "lab"))

from gpuhub_lab import bundle, catalogue, debs, images, template, wheels
from gpuhub_lab.cache import CACHE

# Where apt, pip and npm keep what they were told about registries.
CONFIGURATION = re.compile(
    r"etc/apt/|(^|/)(\.?pip/)?pip\.conf$|(^|/)\.?npmrc$|(^|/)\.?package-lock\.json$|(^|/)direct_url\.json$"
)
UNCHECKED_HASH = 1


@pytest.fixture(scope="module")
def folder() -> Path:
    return bundle.build()


@pytest.fixture(scope="module")
def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


@pytest.fixture(scope="module")
def layout(folder: Path) -> Path:
    return folder / "oci"


@pytest.fixture(scope="module")
def layers(manifest: dict, layout: Path) -> dict[str, list[Path]]:
    """Layers of each image by reference, the lowest first."""
    found = {}
    for image in manifest["images"]:
        parts = images.read_blob(layout, image["digest"])["layers"]
        assert {part["mediaType"] for part in parts} == {"application/vnd.oci.image.layer.v1.tar"}
        found[image["reference"]] = [images.blob(layout, part["digest"]) for part in parts]
    return found


def members(files: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Name and content of every regular file in these layers."""
    for file in files:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                if member.isfile():
                    yield member.name.removeprefix("./"), archive.extractfile(member).read()


def sha256(file: Path) -> str:
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


# ---- the manifest and the layout ---------------------------------------------------------------------------------


def test_every_file_is_what_the_manifest_says(folder: Path, manifest: dict) -> None:
    assert manifest["schema"] == 1
    assert {snap["name"] for snap in manifest["snaps"]} == set(catalogue.load()["microk8s"]["snaps"])
    for kind in KINDS.values():
        assert manifest[kind], f"the bundle holds no {kind}"
        for item in manifest[kind]:
            file = folder / item["file"]
            assert (sha256(file), file.stat().st_size) == (item["digest"], item["size"]), item["file"]
    for snap in manifest["snaps"]:
        assert sha256(folder / snap["assertion"]) == snap["assertion_digest"]


def test_manifest_names_every_file(folder: Path, manifest: dict) -> None:
    named = {item["file"] for kind in KINDS.values() for item in manifest[kind]}
    named |= {snap["assertion"] for snap in manifest["snaps"]} | {"manifest.json"}
    present = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert {name for name in present if not name.startswith("oci/")} == named


def test_layout_holds_exactly_the_blobs_of_its_images(manifest: dict, layout: Path) -> None:
    referenced = set()
    for image in manifest["images"]:
        parts = images.read_blob(layout, image["digest"])
        sizes = {part["digest"]: part["size"] for part in (parts["config"], *parts["layers"])}
        size = images.blob(layout, image["digest"]).stat().st_size
        assert image["size"] == size + sum(part["size"] for part in (parts["config"], *parts["layers"]))
        for digest, expected in sizes.items():
            assert images.blob(layout, digest).stat().st_size == expected
        referenced |= {image["digest"], *sizes}
    blobs = {f"sha256:{file.name}": file for file in (layout / "blobs" / "sha256").iterdir()}
    assert set(blobs) == referenced
    assert {sha256(file) for file in blobs.values()} == referenced
    assert json.loads((layout / "oci-layout").read_text())["imageLayoutVersion"] == "1.0.0"


def test_index_names_every_image_for_containerd(manifest: dict, layout: Path) -> None:
    index = json.loads((layout / "index.json").read_text())
    names = {}
    for descriptor in index["manifests"]:
        notes = descriptor["annotations"]
        assert notes["io.containerd.image.name"] == notes["org.opencontainers.image.ref.name"]
        assert descriptor["size"] == images.blob(layout, descriptor["digest"]).stat().st_size
        names[notes["io.containerd.image.name"]] = descriptor["digest"]
    assert names == {image["reference"]: image["digest"] for image in manifest["images"]}
    assert set(names) == {image.reference for image in images.inventory().values() if image.reference}


def test_images_are_for_amd64(manifest: dict, layout: Path) -> None:
    for image in manifest["images"]:
        config = images.read_blob(layout, images.read_blob(layout, image["digest"])["config"]["digest"])
        assert (f"{config['os']}/{config['architecture']}", image["platform"]) == ("linux/amd64", "linux/amd64")


def test_product_finds_nothing_wrong(folder: Path, manifest: dict) -> None:
    python = catalogue.load()["python"]
    needs = product.Needs(
        images={image["reference"]: "the lab" for image in manifest["images"]},
        snaps={snap["name"]: "" for snap in manifest["snaps"]},
        charts={chart["name"]: chart["version"] for chart in manifest["charts"]},
        binaries={"helm": "linux/amd64"},
        requirements=tuple(python["requirements"]),
        interpreters=tuple(python["interpreters"]),
        packages=debs.PACKAGES,
        distribution=bundle.DISTRIBUTION,
    )
    problems = product.check(folder, needs).problems
    assert not problems, product.report(folder, problems)


def test_unchanged_inputs_build_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    assert bundle.build() == folder
    assert "building" not in capfd.readouterr().err


# ---- the head's wheels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", catalogue.load()["python"]["interpreters"])
def test_pip_can_install_the_requirements_from_the_wheels_alone(folder: Path, version: str, tmp_path: Path) -> None:
    wheels.pip(
        "download", "--quiet", "--no-index", "--find-links", folder / "wheels", "--only-binary=:all:",
        "--dest", tmp_path, *wheels.for_interpreter(version), *catalogue.load()["python"]["requirements"],
    )  # fmt: skip
    found = {wheels.canonical(file.name.split("-")[0]): file.name.split("-")[1] for file in tmp_path.iterdir()}
    assert found == wheels.pins(wheels.REQUIREMENTS), "a pin is missing, or nothing needs it"


def test_only_extensions_are_bound_to_an_interpreter(folder: Path) -> None:
    bound = {file.name.split("-")[0] for file in (folder / "wheels").iterdir() if "-none-any.whl" not in file.name}
    assert {wheels.canonical(name) for name in bound} == wheels.COMPILED


# ---- what is in the images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "python"), [("hub", "3.13"), ("notebook", "3.13")])
def test_python_packages_are_the_pinned_ones(layers: dict[str, list[Path]], name: str, python: str) -> None:
    image = images.inventory()[name]
    place = re.compile(rf"usr/local/lib/python{python}/dist-packages/([^/]+)-([^/]+)\.dist-info/METADATA")
    matches = (place.fullmatch(file) for file, _ in members(layers[image.reference]))
    found = {wheels.canonical(match[1]): match[2] for match in matches if match}
    assert found == wheels.pins(image.folder / "requirements.txt")


def test_bytecode_is_compiled_and_never_checked(layers: dict[str, list[Path]]) -> None:
    """Layers carry no times: bytecode that Python checks against its source's time would be compiled at every start."""
    for name in ("hub", "notebook"):
        content = dict(members(layers[images.inventory()[name].reference]))
        imported = re.compile(r"usr/(local/)?lib/.*\.pyc")
        stale = [file for file, data in content.items() if imported.fullmatch(file) and data[4] != UNCHECKED_HASH]
        assert not stale, stale[:5]
        package = "usr/local/lib/python3.13/dist-packages/jupyterhub"
        sources = {Path(file).stem for file in content if re.fullmatch(rf"{package}/\w+\.py", file)}
        compiled = {Path(file).name.split(".")[0] for file in content if file.startswith(f"{package}/__pycache__/")}
        assert sources and sources == compiled


def test_binaries_of_images_without_a_system_are_static(layers: dict[str, list[Path]]) -> None:
    checked = 0
    for image in images.inventory().values():
        if image.reference and not image.base:
            for file, data in members(layers[image.reference]):
                if data[:4] == b"\x7fELF":
                    assert not interpreter_wanted(data), f"{image.reference}: {file} needs a dynamic linker"
                    checked += 1
    assert checked == 4
    assert interpreter_wanted(Path(sys.executable).resolve().read_bytes())  # the control: a dynamic one is found


def interpreter_wanted(elf: bytes) -> bool:
    """Whether a 64-bit little-endian ELF file names a dynamic linker (program header PT_INTERP = 3)."""
    (offset,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    return any(struct.unpack_from("<I", elf, offset + number * size)[0] == 3 for number in range(count))


# ---- nothing of the machine that built it ------------------------------------------------------------------------


def registries() -> set[str]:
    """Hosts that this machine's apt, pip and npm are set up to download from."""
    ask = [[sys.executable, "-m", "pip", "config", "list"], ["npm", "config", "get", "registry"]]
    told = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in ask]
    told += [value for name, value in os.environ.items() if name.lower().startswith(("pip_", "npm_config_", "uv_"))]
    urls = [template.mirror().uri, *(url for text in told for url in re.findall(r"https?://[^\s'\"]+", text))]
    return {host for host in (urlsplit(url).hostname for url in urls) if host}


def usual() -> set[str]:
    """The public registries, which documentation names everywhere: what apt, pip and npm ask when nobody says else."""
    ask = ["npm", "config", "get", "registry", "--userconfig=/nonexistent/user", "--globalconfig=/nonexistent/global"]
    settings = {name: value for name, value in os.environ.items() if not name.lower().startswith("npm_config_")}
    told = subprocess.run(ask, capture_output=True, text=True, check=True, env=settings, cwd="/").stdout
    debian = {host for host in registries() if host.endswith(".debian.org")}
    return {urlsplit(told.strip()).hostname, PyPI.netloc, PyPI.file_storage_domain, *debian}


def traces(files: list[Path], hosts: set[str]) -> list[str]:
    """Where these layers name a registry: the usual ones in configuration, a site's own one or a path anywhere."""
    public = usual()
    own = {*(hosts - public), str(CACHE), f"{REPOSITORY}/"}
    found = []
    for name, content in members(files):
        needles = {*own, *public, "/root/"} if CONFIGURATION.search(name) else own
        found += [f"{name}: {needle}" for needle in needles if needle.encode() in content]
    return found


def test_no_layer_names_a_registry_or_a_path_of_the_builder(layers: dict[str, list[Path]]) -> None:
    found = traces(sorted({layer for files in layers.values() for layer in files}), registries())
    assert not found, found


def test_no_image_configuration_names_one_either(manifest: dict, layout: Path) -> None:
    needles = [*registries(), *usual(), str(CACHE), "/root/", f"{REPOSITORY}/"]
    for image in manifest["images"]:
        digests = (image["digest"], images.read_blob(layout, image["digest"])["config"]["digest"])
        text = "".join(images.blob(layout, digest).read_text() for digest in digests)
        assert [needle for needle in needles if needle in text] == [], image["reference"]


@pytest.mark.parametrize(
    ("name", "content", "host"),
    [
        ("etc/apt/sources.list", "deb http://mirror.example/debian trixie main", "mirror.example"),
        ("etc/pip.conf", "[global]\nindex-url = https://mirror.example/simple", "mirror.example"),
        ("home/jovyan/.config/pip/pip.conf", f"[global]\nindex-url = {PyPI.url}", PyPI.netloc),
        ("usr/lib/whatever.txt", "fetched from https://mirror.example/x", "mirror.example"),
        ("usr/lib/other.txt", f"built in {CACHE}/work", str(CACHE)),
    ],
)
def test_a_planted_trace_is_found(name: str, content: str, host: str, tmp_path: Path) -> None:
    """The control of the two tests above."""
    with tarfile.open(tmp_path / "layer", "w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content.encode()))
    assert traces([tmp_path / "layer"], {"mirror.example"}) == [f"{name}: {host}"]
