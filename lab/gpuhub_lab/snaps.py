"""Artefact `snaps`: `.snap` and `.assert` files of snapd, core22 and microk8s, for the lab's double of snap.

The microk8s snap holds our double of MicroK8s (lab/doubles/microk8s), the binaries of artefact `kube`, and from
Debian: etcd, containerd, runc, the CNI plugins and PyYAML. As in any classic snap, what is linked dynamically looks for
its loader and libraries in the base, core22, and so runs on hosts of whatever release.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import kube
from .cache import LAB, artefact
from .process import LabError, sh
from .template import SUITE, mirror

DOUBLE = LAB / "doubles" / "microk8s"
_PACKAGES = ("etcd-server", "containerd", "runc", "containernetworking-plugins", "python3-yaml", "libc6", "libseccomp2")
# Where the files of those packages go in the snap.
_FROM_DEBIAN = {
    "usr/bin/etcd": "bin/etcd",
    "usr/bin/containerd": "bin/containerd",
    "usr/bin/containerd-shim-runc-v2": "bin/containerd-shim-runc-v2",
    "usr/bin/ctr": "bin/ctr",
    "usr/sbin/runc": "bin/runc",
}
_PLUGINS = ("bandwidth", "bridge", "firewall", "host-local", "loopback", "portmap")
# Where a base has the loader and the libraries of classic snaps, and which of them those programs want.
_BASE = Path("/snap/core22/current")
_LOADER = "lib64/ld-linux-x86-64.so.2"
_LIBRARY_FOLDER = "lib/x86_64-linux-gnu"
_LIBRARIES = ("libc.so.6", "libseccomp.so.2")


@dataclass(frozen=True)
class Snap:
    name: str
    version: str
    revision: int
    id: str

    @property
    def stem(self) -> str:
        return f"{self.name}_{self.revision}"


SNAPS = (
    Snap("snapd", "2.71", 25202, "PMrrV4ml8uWuEUDBT8dSGnKUYbevVhc4"),
    Snap("core22", "20250923", 2139, "amcUKQILKXHHTlmSa7NMdnXSx02dNeeT"),
    Snap("microk8s", kube.KUBERNETES, 8695, "EaXqgt1lyCaxKaQCU349mlodBkDCXRcg"),
)


def _debian(folder: Path) -> None:
    """Unpack the packages into `folder`, without their dependencies and without running their scripts."""
    source = mirror()
    keyring = ["--keyring", source.keyring] if source.keyring else []
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=extract", *keyring, f"--include={','.join(_PACKAGES)}",
             SUITE, scratch, source.uri],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if done.returncode != 0:
            raise LabError(f"mmdebstrap ended with {done.returncode}:\n{done.stdout[-3000:]}")
        root = Path(scratch)
        for name in _FROM_DEBIAN:
            _copy_program(root / name, folder / name)
        for plugin in _PLUGINS:
            _copy_program(root / "usr/lib/cni" / plugin, folder / "cni" / plugin)
        for name in (_LOADER, *(f"{_LIBRARY_FOLDER}/{library}" for library in _LIBRARIES)):
            _copy(root / "usr/lib/x86_64-linux-gnu" / Path(name).name, folder / "base" / name)
        shutil.copytree(root / "usr/lib/python3/dist-packages/yaml", folder / "yaml",
                        ignore=shutil.ignore_patterns("*.so", "__pycache__"))  # fmt: skip


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755)


def _copy_program(source: Path, target: Path) -> None:
    """Copy a program that is to use the loader and the libraries of the base, as snapcraft patches it."""
    _copy(source, target)
    # The old kind of search path: it holds for the libraries that libraries want, too.
    loader, libraries = _BASE / _LOADER, _BASE / _LIBRARY_FOLDER
    sh("patchelf", "--set-interpreter", loader, "--force-rpath", "--set-rpath", libraries, target)


def _microk8s(root: Path, debian: Path, binaries: Path) -> None:
    """Lay out the snap's files below `root`."""
    shutil.copytree(DOUBLE, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "README.md"))
    for name, target in _FROM_DEBIAN.items():
        _copy(debian / name, root / target)
    shutil.copytree(debian / "cni", root / "opt/cni/bin")
    shutil.copytree(debian / "yaml", root / "lib/yaml")
    _copy(binaries / "kubelite", root / "kubelite")
    (root / "kubectl").symlink_to("kubelite")
    _copy(binaries / "helm", root / "bin/helm")


def _metadata(snap: Snap) -> str:
    """meta/snap.yaml, as JSON: every JSON text is YAML, and the double of snap has the standard library only."""
    if snap.name == "microk8s":
        return (DOUBLE / "meta/snap.yaml").read_text().replace("VERSION", snap.version)
    kind = "snapd" if snap.name == "snapd" else "base"
    # As current bases do: Debian 12's and Ubuntu 22.04's own snapd is too old for them.
    assumes = ["snapd2.61"] if kind == "base" else []
    return json.dumps({"name": snap.name, "version": snap.version, "summary": f"The lab's stand-in for {snap.name}",
                       "type": kind, "assumes": assumes}, indent=2)  # fmt: skip


def _assertion(snap: Snap, file: Path) -> str:
    """What `snap download` writes beside a snap. The signatures sign nothing: the double does not look at them."""
    digest = hashlib.sha3_384(file.read_bytes()).digest()
    encoded = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    key = "BWDEoaqyr25nF5SNCvEv2v7QnM9QsfCc0PBMYD_i2NGSQ32EF2d4D0hqUel3m8ul"
    signature = base64.b64encode(hashlib.sha512(encoded.encode()).digest()).decode()
    return f"""\
type: snap-declaration
format: 6
authority-id: canonical
revision: 1
series: 16
snap-id: {snap.id}
publisher-id: canonical
snap-name: {snap.name}
timestamp: 2025-09-23T12:00:00.000000Z
sign-key-sha3-384: {key}

{signature}

type: snap-revision
authority-id: canonical
snap-sha3-384: {encoded}
developer-id: canonical
provenance: global-upload
snap-id: {snap.id}
snap-revision: {snap.revision}
snap-size: {file.stat().st_size}
timestamp: 2025-09-23T12:00:00.000000Z
sign-key-sha3-384: {key}

{signature}
"""


def _pack(folder: Path, debian: Path, binaries: Path) -> None:
    for snap in SNAPS:
        file = folder / f"{snap.stem}.snap"
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            root = Path(scratch) / "root"
            root.mkdir(mode=0o755)
            if snap.name == "microk8s":
                _microk8s(root, debian, binaries)
            elif snap.name == _BASE.parent.name:
                shutil.copytree(debian / "base", root, dirs_exist_ok=True)
            (root / "meta").mkdir(exist_ok=True)
            (root / "meta/snap.yaml").write_text(_metadata(snap))
            # lz4: every host unpacks it, on the same few cores.
            sh("mksquashfs", root, file, "-noappend", "-comp", "lz4", "-no-xattrs", "-all-root", "-no-progress",
               "-all-time", "0", "-mkfs-time", "0")  # fmt: skip
        (folder / f"{snap.stem}.assert").write_text(_assertion(snap, file))


def build() -> Path:
    """Build the artefact; Debian's part is kept apart."""
    chosen = repr((_PACKAGES, _FROM_DEBIAN, _PLUGINS, _BASE, _LOADER, _LIBRARY_FOLDER, _LIBRARIES))
    code = [inspect.getsource(function) for function in (_debian, _copy_program)]
    debian = artefact("snaps-debian", [SUITE, chosen, *code], _debian)
    binaries = kube.build()
    inputs = [DOUBLE, Path(__file__), str(binaries), str(debian)]
    return artefact("snaps", inputs, lambda folder: _pack(folder, debian, binaries))
