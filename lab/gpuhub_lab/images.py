"""Artefact `images`: the container images of the lab, as one OCI layout with every blob once.

Each image is built by buildah from a folder of lab/images, or of images/ where it is the platform's own, and is an
artefact of its own, so that only what changed is built again. What a folder holds says what its build context needs
(see lab/images/README.md); all of it is downloaded here, outside the build: no build step uses the network, and no
mirror's address can enter an image.

Layers are not compressed: the bundle stays on this machine, and containerd imports them several times faster.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import catalogue, kube, wheels
from .cache import CACHE, LAB, REPOSITORY, artefact
from .process import LabError
from .template import SUITE, mirror

RECIPES = LAB / "images"
# The one of SUITE.
PYTHON = "3.13"
# Installs the wheels into images that have no pip, and stays out of them.
PIP = "pip==25.3"
# Scripts for the build steps that install downloads, by the file that asks for these.
INSTALLERS = {"packages.txt": "install-packages", "requirements.txt": "install-wheels"}
# Downloads and lock waits overlap with the builds of other images.
WORKERS = 4


@dataclass(frozen=True)
class Image:
    """One image: built from RECIPES/`recipe`, on image `base`, with `binaries` of artefact kube in its context.

    An image without a reference is only a base of others. One of the platform itself has its recipe in images/, and
    what it needs from the repository in its context, at the same paths.
    """

    name: str
    recipe: str
    reference: str | None = None
    base: str | None = None
    binaries: tuple[str, ...] = ()
    own: bool = False

    @property
    def folder(self) -> Path:
        return (REPOSITORY / "images" if self.own else RECIPES) / self.recipe

    @property
    def sources(self) -> list[Path]:
        """What the recipe of one of our own takes from the repository, as it says itself."""
        recipe = (self.folder / "Containerfile").read_text() if self.own else ""
        return sorted(REPOSITORY / path for path in re.findall(r"(?:plugins|services)/[\w./]+", recipe))

    def file(self, name: str) -> Path:
        """A file of the recipe, wherever it is."""
        return next((path for path in self.sources if path.name == name), self.folder / name)


def inventory() -> dict[str, Image]:
    """All images by name; bases come before what stands on them, what takes longest comes first, what waits for
    artefact kube comes last."""
    versions = catalogue.load()
    hub = versions["jupyterhub"]
    images = [
        Image("debian", "debian"),
        Image("python", "python", base="debian"),
        Image("notebook", "notebook", hub["singleuser_image"], "python"),
        Image("hub", "hub", f"quay.io/jupyterhub/k8s-hub:{hub['version']}", "python"),
        Image("usage-portal", "usage-portal", versions["usage_portal"]["image"], "python", own=True),
        Image("postgres", "postgres", versions["postgresql"]["image"], "debian"),
        Image("proxy", "proxy", "quay.io/jupyterhub/configurable-http-proxy:5.2.0", "debian"),
        Image("busybox", "busybox", versions["local_path_provisioner"]["helper_image"], "debian"),
        Image("pause", "pause", versions["pause"]["image"]),
        Image("calico-base", "calico-base", base="debian", binaries=("flanneld", "netpol")),
        # Named by the repository's last part: calico-cni, calico-node, calico-kube-controllers.
        *(
            Image(f"calico-{reference.rpartition('/')[2].partition(':')[0]}", "calico", reference, "calico-base")
            for reference in versions["calico"]["images"]
        ),
        Image("coredns", "coredns", versions["coredns"]["image"], binaries=("coredns",)),
        Image("registry", "registry", versions["registry"]["image"], binaries=("registry",)),
        # Not the catalogue's version: v0.0.30 is the newest that builds from its Go module.
        Image(
            "local-path-provisioner",
            "local-path-provisioner",
            f"{versions['local_path_provisioner']['image']}:v0.0.30",
            binaries=("local-path-provisioner",),
        ),
    ]
    return {image.name: image for image in images}


def build() -> Path:
    """Folder with `oci/`, an OCI layout of all images, and `images.json`, a list of their
    `{reference, digest (of the manifest), platform, size (bytes of manifest, config and layers)}`."""
    images = inventory()
    with ThreadPoolExecutor(WORKERS) as pool:
        layouts = list(pool.map(lambda image: _layout(image, images), images.values()))
    built = zip(images.values(), layouts, strict=True)
    published = sorted((image.reference, layout) for image, layout in built if image.reference)

    def assemble(folder: Path) -> None:
        descriptors, listed = [], []
        (folder / "oci").mkdir()
        (folder / "oci" / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}\n')
        for reference, layout in published:
            shutil.copytree(layout / "blobs", folder / "oci" / "blobs", copy_function=link, dirs_exist_ok=True)
            descriptor = _index(layout)
            manifest = read_blob(layout, descriptor["digest"])
            parts = [descriptor, manifest["config"], *manifest["layers"]]
            descriptors.append(
                {
                    **{key: descriptor[key] for key in ("mediaType", "digest", "size")},
                    "platform": {"os": "linux", "architecture": "amd64"},
                    "annotations": {
                        "io.containerd.image.name": reference,
                        "org.opencontainers.image.ref.name": reference,
                    },
                }
            )
            listed.append(
                {
                    "reference": reference,
                    "digest": descriptor["digest"],
                    "platform": "linux/amd64",
                    "size": sum(part["size"] for part in parts),
                }
            )
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": descriptors}
        (folder / "oci" / "index.json").write_text(json.dumps(index, indent=1) + "\n")
        (folder / "images.json").write_text(json.dumps(listed, indent=1) + "\n")

    inputs = [inspect.getsource(build), *(f"{reference} {layout.name}" for reference, layout in published)]
    return artefact("images", inputs, assemble)


def read_blob(layout: Path, digest: str) -> dict:
    """The JSON blob `digest` (sha256:...) of an OCI layout."""
    return json.loads(blob(layout, digest).read_bytes())


def blob(layout: Path, digest: str) -> Path:
    """The file of blob `digest` (sha256:...) of an OCI layout."""
    return layout / "blobs" / digest.replace(":", "/")


def _index(layout: Path) -> dict:
    """The one descriptor of a layout with one image."""
    (descriptor,) = json.loads((layout / "index.json").read_text())["manifests"]
    return descriptor


def _layers(layout: Path) -> list[Path]:
    manifest = read_blob(layout, _index(layout)["digest"])
    return [blob(layout, layer["digest"]) for layer in manifest["layers"]]


def _layout(image: Image, images: dict[str, Image]) -> Path:
    """OCI layout of one image, built if its inputs changed: artefact image-<name>."""
    context = _downloads(image)  # before the base: it needs none, so both proceed at once
    base = _layout(images[image.base], images) if image.base else None
    if base and (image.folder / "packages.txt").exists():
        context.append(_debs(image, base))
    context += [kube.build() / name for name in image.binaries]
    scripts = [RECIPES / script for source, script in INSTALLERS.items() if (image.folder / source).exists()]

    def make(folder: Path) -> None:
        with _workspace(image.name) as work:
            shutil.copytree(image.folder, work / "context")
            for source in image.sources:
                target = work / "context" / source.relative_to(REPOSITORY)
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy(source, target)
            for item in [*context, *scripts]:
                # A download is a folder whose entries belong into the context; a binary is itself one.
                for entry in item.iterdir() if item.is_dir() else [item]:
                    _copy(entry, work / "context" / entry.name)
            for source in image.folder.glob("*.c"):
                _run("gcc", "-O2", "-static", "-s", "-o", work / "context" / source.stem, source)
            _buildah(image, base, work, folder)
        for layer in _layers(base) if base else []:
            copied = folder / "blobs" / "sha256" / layer.name
            if copied.exists():  # an image that only takes files from its base does not have it
                copied.unlink()
                link(layer, copied)

    recipe = [inspect.getsource(_layout), inspect.getsource(_buildah)]
    inputs = [*recipe, image.folder, *scripts, str(image.reference), str(base and base.name)]
    inputs += image.sources
    # A download is named by its own inputs.
    inputs += [item if item.is_file() else item.name for item in context]
    return artefact(f"image-{image.name}", inputs, make)


def _buildah(image: Image, base: Path | None, work: Path, layout: Path) -> None:
    """Build `work`/context into the OCI layout `layout`, in a container storage of its own below `work`."""
    storage = ["--root", work / "root", "--runroot", work / "runroot", "--storage-driver", _driver()]
    named = f"containers-storage:[{_driver()}@{work / 'root'}+{work / 'runroot'}]localhost/"
    if base:
        _run("skopeo", "copy", "--quiet", f"oci:{base}:{image.base}", f"{named}{image.base}")
    # A fixed time and no label of the builder: the same inputs give the same digest. The title keeps images apart
    # that would otherwise be the same one under several names.
    _run("buildah", *storage, "build", "--isolation", "chroot", "--layers=false", "--pull-never",
         "--timestamp", "0", "--identity-label=false", "--build-arg", f"BASE=localhost/{image.base}",
         "--label", f"org.opencontainers.image.title={image.reference or image.name}",
         "--tag", f"localhost/{image.name}", work / "context", TMPDIR=work)  # fmt: skip
    _run("skopeo", "copy", "--quiet", "--dest-oci-accept-uncompressed-layers", f"{named}{image.name}",
         f"oci:{layout}:{image.name}", TMPDIR=work)  # fmt: skip


def _driver() -> str:
    """Overlay where the kernel lets it stand on the cache's file system, else plain copies."""
    filesystem = subprocess.run(
        ["stat", "--file-system", "--format=%T", CACHE], check=True, capture_output=True, text=True
    ).stdout.strip()
    return "vfs" if filesystem == "overlayfs" else "overlay"


@contextmanager
def _workspace(name: str) -> Iterator[Path]:
    """An empty folder for one build, gone afterwards; what a killed build left mounted there is unmounted first."""
    work = CACHE / "work" / name
    _discard(work)
    work.mkdir(parents=True)
    try:
        yield work
    finally:
        _discard(work)


def _discard(work: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):  # what was mounted last hides the rest
        if mount.startswith(f"{work}/"):
            _run("umount", "--lazy", mount)
    if work.exists():
        shutil.rmtree(work)


def _downloads(image: Image) -> list[Path]:
    """The downloads of an image that do not depend on its base, each a folder whose entries enter the context."""
    found = []

    def add(kind: str, source: str, fetch: Callable[[Path, Path], None]) -> None:
        file = image.file(source)
        if file.exists():
            inputs = [file, inspect.getsource(fetch), SUITE, PYTHON, PIP]
            found.append(artefact(f"{kind}-{image.name}", inputs, lambda folder: fetch(file, folder)))

    add("rootfs", "rootfs.txt", _fetch_rootfs)
    add("pypi", "requirements.txt", _fetch_wheels)
    add("npm", "package-lock.json", _fetch_node_modules)
    return found


def _fetch_rootfs(packages: Path, folder: Path) -> None:
    """rootfs.tar: a minimal Debian with `packages`, without documentation, package lists and sources."""
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info", "lintian")]
    _run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages.read_text().split())}",
         '--aptopt=Acquire::Languages "none"', *excluded,
         '--customize-hook=rm -f "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* "$1"/etc/resolv.conf '
         '"$1"/etc/hostname "$1"/var/cache/ldconfig/aux-cache',
         '--customize-hook=find "$1/var/log" -type f -delete',
         SUITE, folder / "rootfs.tar", _debian(), SOURCE_DATE_EPOCH="0")  # fmt: skip


def _fetch_wheels(requirements: Path, folder: Path) -> None:
    """wheels/: what `requirements` pins, for the images' Python, and pip itself."""
    house = folder / "wheels"
    wanted = [f"{name}=={version}" for name, version in wheels.pins(requirements).items()]
    wheels.download([*wanted, PIP], house, *wheels.for_interpreter(PYTHON))
    downloaded = set(house.iterdir())
    for source in (file for file in downloaded if file.suffix != ".whl"):
        # A pip before 23.1 would want the package `wheel` here, which no environment has by itself.
        wheels.pip("wheel", "--quiet", "--use-pep517", "--no-deps", "--wheel-dir", house, source)
        source.unlink()
    for built in set(house.iterdir()) - downloaded:
        if not built.name.endswith("-none-any.whl"):
            # It was compiled for the Python that runs the lab.
            raise LabError(
                f"{requirements}: there is no wheel of {built.name} for Python {PYTHON}; "
                "install Debian's package of it (packages.txt) instead"
            )


def _fetch_node_modules(lock: Path, folder: Path) -> None:
    """node_modules/: what `lock` pins, checked against its integrity digests."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(lock.parent / name, folder)
    _run(
        "npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", f"--cache={CACHE / 'npm'}", cwd=folder
    )
    for file in (folder / "package.json", folder / "package-lock.json", folder / "node_modules/.package-lock.json"):
        file.unlink(missing_ok=True)  # the last one names the registry


def _debs(image: Image, base: Path) -> Path:
    """Folder with debs/: the packages of `image`/packages.txt and what they need beyond those of `base`."""
    packages = image.folder / "packages.txt"

    def fetch(folder: Path) -> None:
        house, state = folder / "debs", folder / "state"
        for path in (house / "partial", state / "lists/partial"):
            path.mkdir(parents=True)
        (state / "status").write_bytes(_dpkg_status(base))
        (state / "sources.list").write_text(_debian() + "\n")
        # apt of this machine with lists, sources and a package database of our own.
        options = {
            "Dir::State": state,
            "Dir::State::status": state / "status",
            "Dir::State::lists": state / "lists",
            "Dir::State::extended_states": state / "extended",
            "Dir::Cache": state,
            "Dir::Cache::archives": house,
            "Dir::Etc::sourcelist": state / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::Etc::preferences": "-",
            "Dir::Etc::preferencesparts": "-",
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items())]
        _run(*apt, "update")
        _run(*apt, "install", "--download-only", "--yes", "--no-install-recommends", *packages.read_text().split())
        shutil.rmtree(state)
        shutil.rmtree(house / "partial")
        (house / "lock").unlink(missing_ok=True)

    return artefact(f"debs-{image.name}", [packages, base.name, SUITE, inspect.getsource(_debs)], fetch)


def _dpkg_status(layout: Path) -> bytes:
    """The package database of an image: that of its uppermost layer which has one."""
    for layer in reversed(_layers(layout)):
        with tarfile.open(layer) as archive:
            for member in archive:
                if member.name.removeprefix("./") == "var/lib/dpkg/status":
                    return archive.extractfile(member).read()
    raise LabError(f"{layout}: no layer holds var/lib/dpkg/status")


def _debian() -> str:
    """sources.list line for SUITE from the mirror that this machine's apt uses."""
    source = mirror()
    return f"deb {f'[signed-by={source.keyring}] ' if source.keyring else ''}{source.uri} {SUITE} main"


def link(source: str | Path, target: str | Path) -> None:
    """Hard link, or a copy between file systems; a target that exists is the same blob already."""
    if Path(target).exists():
        return
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, target, symlinks=True, copy_function=link, ignore=ignored)
    else:
        link(source, target)


def _run(*command: str | Path, cwd: Path | None = None, **environment: str | Path) -> None:
    """Run a command; if it fails, LabError with the end of what it printed on either stream."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        text=True,
        check=False,
        env=os.environ | {name: str(value) for name, value in environment.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise LabError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-3000:]}")
