"""A second look at a hand-made archive of 20 GB against one that remembers nothing.

Prints one JSON line. GPUHUB_BENCH_GB sets the size. The archive is a sparse file: it takes no room, but is read and
hashed as any other.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
import time
from pathlib import Path

from ansible_collections.gpuhub.platform.plugins.module_utils import bundle
from ansible_collections.gpuhub.platform.plugins.module_utils.image_archive import Archives
from ansible_collections.gpuhub.platform.plugins.module_utils.verified_files import VerifiedFiles
from bench import report

LAYERS = 10
REFERENCE = "docker.io/myorg/pytorch-jhub:24.10"


def digest_of_zeros(size: int) -> str:
    """Digest of `size` bytes of zeros."""
    digest, block = hashlib.sha256(), bytes(1024 * 1024)
    for _ in range(size // len(block)):
        digest.update(block)
    return digest.hexdigest()


def write_archive(path: Path, size: int) -> None:
    """A docker archive of one image whose layers are `size` bytes of zeros altogether, each a file of its own."""
    each = size // LAYERS // 1024**2 * 1024**2
    # Layers of different sizes: equal ones would be hashed once.
    sizes = [each - number * 1024**2 for number in range(LAYERS)]
    contents = [digest_of_zeros(layer) for layer in sizes]
    config = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{c}" for c in contents]},
        }
    ).encode()
    name = hashlib.sha256(config).hexdigest() + ".json"
    entry = {"Config": name, "RepoTags": [REFERENCE], "Layers": [f"{content}.tar" for content in contents]}
    members = [(f"{content}.tar", None, layer) for content, layer in zip(contents, sizes, strict=True)]
    members += [(name, config, len(config))]
    manifest = json.dumps([entry]).encode()
    members += [("manifest.json", manifest, len(manifest))]
    with path.open("wb") as stream:
        for member, content, length in members:
            header = tarfile.TarInfo(member)
            header.size = length
            stream.write(header.tobuf(tarfile.PAX_FORMAT))
            if content is not None:
                stream.write(content)
            else:
                stream.seek(length, os.SEEK_CUR)
            stream.seek(-length % tarfile.BLOCKSIZE, os.SEEK_CUR)
        stream.write(bytes(2 * tarfile.BLOCKSIZE))


def look(folder: Path, cache: Path | None) -> float:
    """Seconds for one look at the archive in `folder`, as bundle_check takes it."""
    started = time.perf_counter()
    memory = VerifiedFiles(cache / "verified.json" if cache else None)
    needs = bundle.Needs(images={REFERENCE: "the benchmark"})
    problems = bundle.check(folder, needs, memory, Archives(cache / "archives" if cache else None)).problems
    seconds = time.perf_counter() - started
    if problems:
        raise SystemExit(bundle.report(folder, problems))
    return seconds


def main() -> None:
    """Look without a memory, with an empty one, and again."""
    size = int(float(os.environ.get("GPUHUB_BENCH_GB", "20")) * 1e9)
    with tempfile.TemporaryDirectory(prefix="gpuhub-bench-", dir="/var/tmp") as temporary:
        folder, cache = Path(temporary, "bundle"), Path(temporary, "cache")
        folder.mkdir()
        write_archive(folder / "jhub_24.10.tar", size)
        look(folder, cache)
        ours = min(look(folder, cache) for _ in range(3))
        reference = look(folder, None)
    report("second look at a hand-made archive (s), against one that remembers nothing", ours, reference, goal=50)


if __name__ == "__main__":
    main()
