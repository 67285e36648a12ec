"""The GPUs of hosts, and artefact `gpus`: the program that gives them to kubelet as NVIDIA's device plugin does."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import golang
from .cache import LAB, artefact
from .instance import number
from .process import LabError

SOURCE = LAB / "doubles" / "gpu-device-plugin"
PROGRAM = "gpu-double"
UNITS = (f"{PROGRAM}.path", f"{PROGRAM}.service")
# Where a host finds what it has.
FILE = "etc/gpuhub-lab/gpus.json"
MAX_COUNT = 16
_COUNT = 8


@dataclass(frozen=True)
class Product:
    """A model as its driver names it; all GPUs of a host are of one."""

    product: str
    memory_mib: int
    family: str
    compute: str


PRODUCTS = {
    "A100": Product("NVIDIA A100-SXM4-80GB", 81920, "ampere", "8.0"),
    "H100": Product("NVIDIA H100 80GB HBM3", 81559, "hopper", "9.0"),
    "T4": Product("Tesla T4", 15360, "turing", "7.5"),
    "V100": Product("Tesla V100-SXM2-32GB", 32768, "volta", "7.0"),
}


@dataclass(frozen=True)
class Gpus:
    """How many of which product a host has."""

    count: int
    product: str = ""

    def __str__(self) -> str:
        return f"{self.count}x{self.product}" if self.count else "0"


def parse(text: str) -> tuple[str, Gpus]:
    """Host and GPUs of `HOST=COUNTxPRODUCT` or `HOST=0`; ValueError says what is wrong."""
    host, _, value = text.partition("=")
    try:
        number(host)
    except LabError as error:
        raise ValueError(str(error)) from None
    if value == "0":
        return host, Gpus(0)
    match = re.fullmatch(r"([0-9]+)x(\w+)", value)
    if not match or match[2] not in PRODUCTS or not 1 <= int(match[1]) <= MAX_COUNT:
        raise ValueError(
            f"{value!r} is neither 0 nor, as 8xA100, one of 1 to {MAX_COUNT} GPUs of {', '.join(PRODUCTS)}"
        )
    return host, Gpus(int(match[1]), match[2])


def of(host: str, chosen: Mapping[str, str]) -> Gpus:
    """What a host has: as `chosen` (host: GPUs as text) says, else none on the head and 8 of a product on a worker."""
    if host in chosen:
        return parse(f"{host}={chosen[host]}")[1]
    index = number(host)
    return Gpus(_COUNT, list(PRODUCTS)[(index - 1) % len(PRODUCTS)]) if index else Gpus(0)


def describe(gpus: Gpus, machine_id: str) -> dict[str, Any] | None:
    """Content of FILE for a host with this machine id, None without GPUs. An id belongs to its host and index."""
    if not gpus.count:
        return None
    ids = [f"GPU-{uuid.uuid5(uuid.UUID(machine_id), f'gpu {index}')}" for index in range(gpus.count)]
    return {**asdict(PRODUCTS[gpus.product]), "machine": "Lab host", "uuids": ids}


def inputs() -> list[Path | str]:
    """What the program and its units depend on."""
    return [*golang.inputs(SOURCE), *(SOURCE / unit for unit in UNITS)]


def build() -> Path:
    """Build the artefact: a folder with PROGRAM."""
    return artefact("gpus", golang.inputs(SOURCE), lambda folder: golang.build(SOURCE, {PROGRAM: "."}, folder))
