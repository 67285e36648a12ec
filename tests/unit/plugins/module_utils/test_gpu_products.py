"""Types of GPUs and the products that nodes are labelled with."""

from __future__ import annotations

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import gpu_products as g

TYPES = {
    "NVIDIA-H100-80GB-HBM3": "H100",
    "NVIDIA-H100-NVL": "H100",
    "NVIDIA-H200": "H200",
    "NVIDIA-GH200-144G-HBM3e": "GH200",
    "NVIDIA-A100-SXM4-80GB": "A100",
    "NVIDIA-A100-SXM4-40GB": "A100",
    "NVIDIA-A100-80GB-PCIe": "A100",
    "NVIDIA-A10": "A10",
    "Tesla-V100-SXM2-32GB": "V100",
    "Tesla-V100-PCIE-32GB": "V100",
    "Tesla-V100-DGXS-32GB": "V100",
    "Tesla-P100-SXM2-16GB": "P100",
    "Tesla-T4": "T4",
    "Tesla-T4-SHARED": "T4",
    "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb": "A100-MIG-1g.10gb",
    "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb-SHARED": "A100-MIG-1g.10gb",
    "NVIDIA-GeForce-RTX-3090": "RTX-3090",
    "Quadro-RTX-6000": "Quadro-RTX-6000",
    "NVIDIA-RTX-6000-Ada-Generation": "RTX-6000-Ada",
    "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition": "RTX-PRO-6000-Blackwell",
    "NVIDIA": "unknown",
    "80GB": "80GB",
}


@pytest.mark.parametrize(("product", "kind"), TYPES.items())
def test_types(product, kind):
    assert g.gpu_type(product) == kind


@pytest.mark.parametrize("product", [product for product in TYPES if product != "NVIDIA"])
def test_a_type_finds_its_products(product):
    assert product in g.products_of(g.gpu_type(product), TYPES)
    assert product in g.products_of(product, TYPES)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("A100", ["NVIDIA-A100-80GB-PCIe", "NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-SXM4-80GB"]),
        ("a100", ["NVIDIA-A100-80GB-PCIe", "NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-SXM4-80GB"]),
        ("A100-80GB", ["NVIDIA-A100-80GB-PCIe", "NVIDIA-A100-SXM4-80GB"]),
        ("A100-PCIe", ["NVIDIA-A100-80GB-PCIe"]),
        ("NVIDIA-A100-SXM4-40GB", ["NVIDIA-A100-SXM4-40GB"]),
        ("A10", ["NVIDIA-A10"]),
        ("T4", ["Tesla-T4", "Tesla-T4-SHARED"]),
        ("RTX-6000-Ada", ["NVIDIA-RTX-6000-Ada-Generation"]),
    ],
)
def test_what_people_mean(wanted, found):
    assert g.products_of(wanted, TYPES) == found


@pytest.mark.parametrize("wanted", ["A1000", "A", "6000", "RTX", "", "NVIDIA", "A100\n", "SXM4", "MIG"])
def test_what_nobody_can_mean(wanted):
    with pytest.raises(g.GpuProductError, match="types there are: A100, T4, and any"):
        g.products_of(wanted, ["NVIDIA-A100-SXM4-80GB", "Tesla-T4"])


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ({"nvidia.com/gpu.product": "Tesla-T4", "nvidia.com/gpu.present": "true"}, "T4"),
        ({"nvidia.com/gpu.present": "true"}, "unknown"),
        ({"nvidia.com/gpu.present": "false"}, ""),
        ({}, ""),
    ],
)
def test_nodes(labels, kind):
    assert g.node_gpu_type(labels) == kind


def test_affinity_names_exact_products():
    (term,) = g.affinity(["Tesla-T4-SHARED", "Tesla-T4", "Tesla-T4"])
    assert term["matchExpressions"] == [
        {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["Tesla-T4", "Tesla-T4-SHARED"]}
    ]


def test_any_is_a_node_with_either_label():
    keys = [term["matchExpressions"][0]["key"] for term in g.affinity()]
    assert keys == ["nvidia.com/gpu.present", "nvidia.com/gpu.product"]
