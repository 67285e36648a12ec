"""Small bundles, whole or damaged in one chosen way, for the tests of what reads them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"

PAUSE = "registry.k8s.io/pause:3.10"
HUB = "quay.io/jupyterhub/k8s-hub:4.4.0"
SHARED_LAYER = b"a base that two images share " * 50


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class LayoutWriter:
    """Writes an OCI layout into a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs" / "sha256").mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.entries: list[dict[str, Any]] = []

    def blob(self, content: bytes, media_type: str) -> dict[str, Any]:
        self.file(digest(content)).write_bytes(content)
        return {"mediaType": media_type, "digest": digest(content), "size": len(content)}

    def json(self, document: Any, media_type: str) -> dict[str, Any]:
        return self.blob(json.dumps(document).encode(), media_type)

    def file(self, name: str) -> Path:
        return self.folder / "blobs" / "sha256" / name.removeprefix("sha256:")

    def manifest(self, layers: list[bytes], architecture: str = "amd64", text: str = "") -> dict[str, Any]:
        described = [self.blob(layer, LAYER) for layer in layers]
        config = self.json({"os": "linux", "architecture": architecture, "comment": text}, CONFIG)
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": described}
        return self.json(document, MANIFEST)

    def name(self, reference: str, descriptor: dict[str, Any]) -> dict[str, Any]:
        self.entries.append({**descriptor, "annotations": {"io.containerd.image.name": reference}})
        (self.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.entries}))
        return descriptor


def image_size(writer: LayoutWriter, descriptor: dict[str, Any]) -> int:
    document = json.loads(writer.file(descriptor["digest"]).read_bytes())
    parts = {part["digest"]: part["size"] for part in [descriptor, document["config"], *document["layers"]]}
    return sum(parts.values())


def wheel(folder: Path, file: str, requires: tuple[str, ...] = (), python: str = "", **members: str) -> Path:
    """A wheel file with METADATA and, by name, further members (``__`` stands for a slash)."""
    name, version = file.split("-")[:2]
    headers = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {text}" for text in requires)]
    if python:
        headers.append(f"Requires-Python: {python}")
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / file, "w") as archive:
        archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(headers) + "\n")
        archive.writestr(f"{name}/__init__.py", f"version = {version!r}\n")
        for member, content in members.items():
            archive.writestr(member, content)
    return folder / file


class Bundle:
    """A whole bundle in a folder: two images that share a layer, a snap, a chart, helm, wheels and packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.oci = LayoutWriter(folder / "oci")
        pause = self.oci.name(PAUSE, self.oci.manifest([SHARED_LAYER], text="pause"))
        hub = self.oci.name(HUB, self.oci.manifest([SHARED_LAYER, b"the hub " * 100], text="hub"))
        self.digests = {PAUSE: pause["digest"], HUB: hub["digest"]}
        for name in (
            "snaps/microk8s_1.snap", "snaps/microk8s_1.assert", "charts/jupyterhub-4.4.0.tgz", "bin/helm",
            "debs/nginx_1_amd64.deb", "debs/nginx-common_1_all.deb",
        ):  # fmt: skip
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(f"content of {name}".encode() * 10)
        wheel(folder / "wheels", "demo-1.0-py3-none-any.whl", requires=("helper>=2",))
        wheel(folder / "wheels", "helper-2.1-py3-none-any.whl")
        self.manifest: dict[str, Any] = {
            "schema": 1,
            "images": [
                {
                    "reference": reference,
                    "digest": descriptor["digest"],
                    "platform": "linux/amd64",
                    "size": image_size(self.oci, descriptor),
                    "archive": "oci",
                }
                for reference, descriptor in ((PAUSE, pause), (HUB, hub))
            ],
            "snaps": [
                {
                    "name": "microk8s",
                    "version": "v1.34.4",
                    "revision": "1",
                    "classic": True,
                    "assertion": "snaps/microk8s_1.assert",
                    "assertion_digest": self.digest_of("snaps/microk8s_1.assert"),
                    **self.described("snaps/microk8s_1.snap"),
                }
            ],
            "charts": [{"name": "jupyterhub", "version": "4.4.0", **self.described("charts/jupyterhub-4.4.0.tgz")}],
            "binaries": [
                {"name": "helm", "version": "v3.19.5", "platform": "linux/amd64", **self.described("bin/helm")}
            ],
            "wheels": [
                {"name": "demo", "version": "1.0", **self.described("wheels/demo-1.0-py3-none-any.whl")},
                {"name": "helper", "version": "2.1", **self.described("wheels/helper-2.1-py3-none-any.whl")},
            ],
            "debs": [
                {
                    "name": name,
                    "version": "1",
                    "distribution": "debian-13",
                    "architecture": architecture,
                    **({"depends": "nginx-common (= 1), libc6 (>= 2.38)"} if name == "nginx" else {}),
                    **self.described(f"debs/{name}_1_{architecture}.deb"),
                }
                for name, architecture in (("nginx", "amd64"), ("nginx-common", "all"))
            ],
        }
        self.write()

    def digest_of(self, file: str) -> str:
        return digest((self.folder / file).read_bytes())

    def described(self, file: str) -> dict[str, Any]:
        return {"file": file, "digest": self.digest_of(file), "size": (self.folder / file).stat().st_size}

    def write(self) -> None:
        (self.folder / "manifest.json").write_text(json.dumps(self.manifest))

    def layer(self, reference: str, position: int = -1) -> Path:
        """File of a layer of an image."""
        document = json.loads(self.oci.file(self.digests[reference]).read_bytes())
        return self.oci.file(document["layers"][position]["digest"])

    def pack(self) -> Path:
        """Turn the OCI layout folder into a tar and let the manifest name it."""
        path = self.folder / "oci.tar"
        with tarfile.open(path, "w:") as tar:
            for file in sorted(self.oci.folder.rglob("*")):
                tar.add(file, file.relative_to(self.oci.folder).as_posix(), recursive=False)
        for image in self.manifest["images"]:
            image["archive"] = "oci.tar"
        self.write()
        return path


def flip(path: Path, position: int = 10) -> None:
    """Turn one bit of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """Cut a file in half."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def tar_of(files: dict[str, bytes]) -> bytes:
    """An uncompressed tar."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


# ---- archives made by hand


def layer(text: str) -> bytes:
    """A layer: the tar of one file."""
    return tar_of({"etc/motd": text.encode()})


def configuration(layers: list[bytes], architecture: str = "amd64") -> bytes:
    """An image's configuration as Docker writes it."""
    contents = [digest(content) for content in layers]
    return json.dumps(
        {"os": "linux", "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": contents}}
    ).encode()


def docker_files(
    images: dict[str, list[bytes]], architecture: str = "amd64", legacy: bool = False, gzipped: bool = False
) -> dict[str, bytes]:
    """Files of a docker archive by name; equal layers are one file. `legacy` as Docker before 25 names them.

    A name may be several, parted by blanks, or empty. With `gzipped` layers are compressed, as crane and kaniko do.
    """
    files: dict[str, bytes] = {}
    entries = []
    for names, layers in images.items():
        config = configuration(layers, architecture)
        config_file = digest(config)[7:] + ".json"
        paths = []
        for content in layers:
            name = digest(content)[7:]
            path = f"{name}/layer.tar" if legacy else f"{name}.tar.gz" if gzipped else f"{name}.tar"
            files[path] = gzip.compress(content, mtime=0) if gzipped else content
            if legacy:
                files[f"{name}/json"] = b'{"id": "x"}'
                files[f"{name}/VERSION"] = b"1.0"
            paths.append(path)
        files[config_file] = config
        entries.append({"Config": config_file, "RepoTags": names.split() or None, "Layers": paths})
    if legacy:
        files["repositories"] = b'{"x": {"latest": "y"}}'
    return {**files, "manifest.json": json.dumps(entries).encode()}
