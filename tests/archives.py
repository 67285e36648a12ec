"""Archives of images as people make them, beside a copy of the lab's bundle."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import CACHE

MINE = "myorg/pytorch-jhub:24.10"
# The same image by a name of a registry that nobody has told the platform about.
ELSEWHERE = "registry.example.com/team/notebook:1"


@contextmanager
def bundle_copy() -> Iterator[Path]:
    """A copy of the lab's bundle that archives can be dropped into."""
    with tempfile.TemporaryDirectory(prefix="gpuhub-bundle-", dir="/var/tmp") as temporary:
        bundle = Path(temporary, "bundle")
        shutil.copytree(CACHE / "bundle", bundle, copy_function=os.link)
        yield bundle


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:") as archive:
        add(archive, files)
    return stream.getvalue()


def add(archive: tarfile.TarFile, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(content), 0o644
        archive.addfile(member, io.BytesIO(content))


def docker_archive(name: str, text: str, architecture: str = "amd64") -> bytes:
    """What `docker save` writes of an image with one small layer."""
    layer = tar({"text": text.encode()})
    config = {"os": "linux", "architecture": architecture, "rootfs": {"diff_ids": [f"sha256:{sha256(layer)}"]}}
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["0/layer.tar"]}]
    documents = {"config.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}
    return tar({"0/layer.tar": layer, **documents})


def add_layer(source: Path, target: Path, files: dict[str, bytes]) -> None:
    """Write a docker archive anew, compressed, with one more layer: what `docker build` and `docker save | gzip` do."""
    with tarfile.open(source) as old, gzip.open(target, "wb", compresslevel=1) as sink:
        (entry,) = json.loads(old.extractfile("manifest.json").read())
        config = json.loads(old.extractfile(entry["Config"]).read())
        layer = tar(files)
        config["rootfs"]["diff_ids"].append(f"sha256:{sha256(layer)}")
        config["history"].append({"created_by": "COPY"})
        content = json.dumps(config).encode()
        left_out = ("manifest.json", entry["Config"])
        entry.update(
            Config=f"{sha256(content)}.json", RepoTags=[MINE, ELSEWHERE], Layers=[*entry["Layers"], "mine/layer.tar"]
        )
        with tarfile.open(fileobj=sink, mode="w:") as new:
            for member in old:
                if member.name not in left_out:
                    new.addfile(member, old.extractfile(member) if member.isfile() else None)
            documents = {entry["Config"]: content, "manifest.json": json.dumps([entry]).encode()}
            add(new, {"mine/layer.tar": layer, **documents})
