"""Artefact `kube`: the control plane and what runs around it, built from one Go module with pinned versions."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from . import catalogue
from .cache import CACHE, LAB, artefact
from .process import LabError

SOURCE = LAB / "kube"
KUBERNETES = "v1.34.4"
# Binary: package of the module (a path) or of one that it requires. kubelite is kube-apiserver, kube-proxy, kubelet,
# kube-scheduler, kube-controller-manager and kubectl, chosen by the name it is called by or by its first argument.
# CoreDNS is 1.12.4 though its image is called 1.12.3: that release would bring a hundred modules more into the graph.
PROGRAMS = {
    "kubelite": ".",
    "coredns": "./coredns",
    "flanneld": "./overlay",
    "netpol": "./netpol",
    "helm": "helm.sh/helm/v3/cmd/helm",
    "registry": "github.com/distribution/distribution/v3/cmd/registry",
    "local-path-provisioner": "github.com/rancher/local-path-provisioner",
}


def _stamps() -> str:
    """Linker flags: small binaries that tell the version that they stand for."""
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    values = {
        "k8s.io/component-base/version.gitVersion": KUBERNETES,
        "k8s.io/component-base/version.gitMajor": major,
        "k8s.io/component-base/version.gitMinor": minor,
        "k8s.io/component-base/version.gitTreeState": "clean",
        "k8s.io/component-base/version.gitCommit": "lab",
        "helm.sh/helm/v3/internal/version.version": catalogue.load()["helm"]["version"],
        "helm.sh/helm/v3/internal/version.gitTreeState": "clean",
        "github.com/distribution/distribution/v3/version.version": "v3.0.0",
        "main.VERSION": "v0.0.30",
    }
    return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in values.items())])


def _compile(folder: Path) -> None:
    if not shutil.which("go"):
        raise LabError(f"go is not installed or not in PATH; {SOURCE / 'go.mod'} names the version that is needed")
    go = CACHE / "go"
    environment = {
        **os.environ, "CGO_ENABLED": "0", "GOCACHE": str(go / "build"), "GOMODCACHE": str(go / "mod"),
        "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false", "GOWORK": "off", "GOTOOLCHAIN": "local",
    }  # fmt: skip
    stamps = _stamps()
    # One after the other: linking kubelite alone takes 2 GB, and each build uses all cores anyway.
    for name, package in PROGRAMS.items():
        done = subprocess.run(
            ["go", "build", "-ldflags", stamps, "-o", str(folder / name), package],
            cwd=SOURCE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if done.returncode != 0:
            raise LabError(f"go build of {name} ({package}) in {SOURCE} failed:\n{done.stdout[-3000:]}")


def build() -> Path:
    """Build the artefact: minutes from nothing, seconds after a change, as Go's own caches are kept."""
    sources = [file for file in sorted(SOURCE.rglob("*")) if file.suffix in (".go", ".mod", ".sum")]
    inputs = [part for file in sources for part in (file.relative_to(SOURCE).as_posix(), file)]
    return artefact("kube", [*inputs, _stamps(), repr(PROGRAMS)], _compile)
