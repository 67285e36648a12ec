"""Types of GPUs, as people name them, and the products that nodes are labelled with. Pure.

GPU feature discovery labels a node with the product of its GPUs, such as `NVIDIA-A100-SXM4-80GB`, and assumes one
product for each node. Node affinity cannot search within a label, so that a type becomes a list of exact products.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

GPU_RESOURCE = "nvidia.com/gpu"
PRODUCT_LABEL = "nvidia.com/gpu.product"
PRESENT_LABEL = "nvidia.com/gpu.present"

# Whatever GPU there is.
ANY = "any"
# A node that has GPUs and does not say which.
UNKNOWN = "unknown"

# What a product's name holds besides the model: who makes it, how it is built in, how much memory it has.
_MAKER = re.compile(r"(?i)NVIDIA|Tesla|GeForce")
_BUILD = re.compile(r"(?i)SXM[0-9]*|PCIe|NVL|DGXS?|FHHL|LS|HBM[0-9]+e?|[0-9]+GB?|Generation|Server|Workstation|Edition")
# Under time slicing several pods share one GPU.
_SHARED = re.compile(r"(?i)-SHARED\Z")


class GpuProductError(ValueError):
    """No GPU is of the type that was asked for; the text names those that there are."""


def _parts(product: str) -> list[str]:
    """The words of a product without its maker. Those of a MIG slice are kept: it is no whole GPU."""
    return [part for part in _SHARED.sub("", product).split("-") if part and not _MAKER.fullmatch(part)]


def _model(product: str) -> list[str]:
    """Those of its words that are its type."""
    parts = _parts(product)
    return [part for part in parts if not _BUILD.fullmatch(part)] or parts


def _alike(words: Iterable[str]) -> set[str]:
    return {word.lower() for word in words}


def gpu_type(product: str) -> str:
    """Return the short name of a product: `A100` of `NVIDIA-A100-SXM4-80GB`, `A100-MIG-1g.10gb` of a slice of one."""
    return "-".join(_model(product)) or UNKNOWN


def node_product(labels: Mapping[str, str]) -> str:
    """Return the product that a node's labels name; empty if they name none."""
    return labels.get(PRODUCT_LABEL) or ""


def node_gpu_type(labels: Mapping[str, str]) -> str:
    """Return the type of a node's GPUs by its labels: `unknown` if GPUs are all they say, empty if not even that."""
    product = node_product(labels)
    if product:
        return gpu_type(product)
    return UNKNOWN if labels.get(PRESENT_LABEL) == "true" else ""


def products_of(wanted: str, products: Iterable[str]) -> list[str]:
    """Return those products, sorted, that a person means by `wanted`: a type, a type and how it is built, a product.

    `A100` means all A100, `A100-80GB` those of 80 GB; `A10` does not mean an A100, nor `A100` a MIG slice of one.
    Upper and lower case are alike. Raises GpuProductError where none is meant.
    """
    known = sorted(set(products))
    words = _alike(_parts(wanted))
    found = [product for product in known if words and _alike(_model(product)) <= words <= _alike(_parts(product))]
    if not found:
        types = ", ".join(sorted({gpu_type(product) for product in known})) or "none"
        raise GpuProductError(f"no GPU here is a {ascii(wanted)[1:-1]}; types there are: {types}, and {ANY}")
    return found


def affinity(products: Iterable[str] = ()) -> list[dict[str, list[dict[str, Any]]]]:
    """Return node selector terms, of which one must match, for exactly these products; for none, for any GPU."""
    values = sorted(set(products))
    if values:
        expressions = [{"key": PRODUCT_LABEL, "operator": "In", "values": values}]
    else:
        # The operator writes the first label, GPU feature discovery by itself only the second.
        expressions = [
            {"key": PRESENT_LABEL, "operator": "In", "values": ["true"]},
            {"key": PRODUCT_LABEL, "operator": "Exists"},
        ]
    return [{"matchExpressions": [expression]} for expression in expressions]
