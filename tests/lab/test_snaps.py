"""The files of the lab's snaps: its programs need nothing of the host's but the kernel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "lab"))

from gpuhub_lab import snaps

LOADER = "/snap/core22/current/lib64/ld-linux-x86-64.so.2"
# Program, arguments, and what it then prints; one for each package that they come from.
PROGRAMS = [
    ("bin/etcd", ["--version"], "etcd Version: "),
    ("bin/containerd", ["--version"], "containerd github.com/containerd/containerd 1.7."),
    ("bin/runc", ["--version"], "libseccomp: "),
    ("opt/cni/bin/bridge", [], "CNI bridge plugin "),
    ("bin/helm", ["version"], 'Version:"v3.'),
    ("kubelite", ["kubectl", "version", "--client"], f"Client Version: {snaps.kube.KUBERNETES}"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with the snaps where snapd mounts them, and nothing else."""
    root = tmp_path_factory.mktemp("root")
    for snap in snaps.SNAPS:
        folder = root / "snap" / snap.name
        folder.mkdir(parents=True)
        file = snaps.build() / f"{snap.stem}.snap"
        subprocess.run(["unsquashfs", "-quiet", "-no-progress", "-dest", folder / "current", file], check=True)
    return root


def chroot(root: Path, *command: str) -> tuple[int, str]:
    """Exit code and output of a command in there."""
    done = subprocess.run(["chroot", root, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def is_elf(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(4) == b"\x7fELF"


def test_every_program_is_static_or_finds_its_libraries_in_the_base(root: Path) -> None:
    loaded = {}
    for file in sorted((root / "snap/microk8s").rglob("*")):
        if file.is_file() and not file.is_symlink() and is_elf(file):
            name = f"/{file.relative_to(root)}"
            asked = subprocess.run(["patchelf", "--print-interpreter", file], capture_output=True, text=True)
            loaded[name] = asked.stdout.strip()
            if loaded[name]:
                code, listed = chroot(root, LOADER, "--list", name)
                assert code == 0, f"{name}: {listed}"
    static = {name.rpartition("/")[2] for name, loader in loaded.items() if not loader}
    assert static == {"helm", "kubelite"}
    assert set(loaded.values()) == {"", LOADER}, loaded
    assert len(loaded) == len(static) + len(snaps._FROM_DEBIAN) + len(snaps._PLUGINS)


@pytest.mark.parametrize(("program", "arguments", "text"), PROGRAMS, ids=[program for program, *_ in PROGRAMS])
def test_a_program_runs_where_nothing_but_snaps_is(root: Path, program: str, arguments: list[str], text: str) -> None:
    code, said = chroot(root, f"/snap/microk8s/current/{program}", *arguments)
    assert (code, text in said) == (0, True), said
