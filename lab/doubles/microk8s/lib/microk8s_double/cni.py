"""The CNI manifest on disk: rendered at installation, changed at the first join, applied by the kicker."""

from __future__ import annotations

import re

from . import arguments
from .snapenv import CNI_PLUGIN, CNI_YAML, SNAP, kubectl, write


def generate() -> None:
    """Write cni.yaml and the networks in args/ from args/cni-env."""
    pods = arguments.get("cni-env", "IPv4_CLUSTER_CIDR")
    cluster_services = arguments.get("cni-env", "IPv4_SERVICE_CIDR")
    if arguments.get("cni-env", "IPv4_SUPPORT") != "true" or not pods or not cluster_services:
        raise RuntimeError("Failed: IPv4_SUPPORT must be true, with IPv4_CLUSTER_CIDR and IPv4_SERVICE_CIDR")
    arguments.update("kube-apiserver", {"--service-cluster-ip-range": cluster_services})
    arguments.update(
        "kube-controller-manager", {"--service-cluster-ip-range": cluster_services, "--cluster-cidr": pods}
    )
    arguments.update("kube-proxy", {"--cluster-cidr": pods})
    manifest = (SNAP / "manifests/calico.yaml").read_text().replace("10.1.0.0/16", pods)
    mtu = arguments.get("cni-env", "CALICO_VETH_MTU")
    if mtu:
        manifest = manifest.replace('veth_mtu: "0"', f'veth_mtu: "{mtu}"')
    write(CNI_YAML, manifest)


def apply() -> bool:
    return kubectl("apply", "-f", CNI_YAML).returncode == 0


def forget() -> None:
    """Take away what the overlay has told containerd: the node changes its cluster, and with it its subnet.

    Until the next cluster's overlay is there pods wait, as they do with Calico, whose plugin still has a credential of
    the last cluster. A pod that started at once would have an address of the old subnet, on a bridge about to go.
    """
    CNI_PLUGIN.unlink(missing_ok=True)


def reach(address: str) -> bool:
    """Replace the method first-found by can-reach=ADDRESS in the file; True if it was there."""
    before = CNI_YAML.read_text()
    after = re.sub(r"(IP_AUTODETECTION_METHOD(.*\n.*)?)first-found", rf"\g<1>can-reach={address}", before)
    if after != before:
        write(CNI_YAML, after)
    return after != before
