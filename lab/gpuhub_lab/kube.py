"""Artefact `kube`: the control plane and what runs around it, built from one Go module with pinned versions."""

from __future__ import annotations

from pathlib import Path

from . import catalogue, golang
from .cache import LAB, artefact

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
    "registry": "./registry",
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


def build() -> Path:
    """Build the artefact: minutes from nothing, seconds after a change, as Go's own caches are kept."""
    inputs = [*golang.inputs(SOURCE), _stamps(), repr(PROGRAMS)]
    return artefact("kube", inputs, lambda folder: golang.build(SOURCE, PROGRAMS, folder, _stamps()))
