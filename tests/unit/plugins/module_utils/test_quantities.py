"""Amounts: what Kubernetes, KubeSpawner and people write, exact."""

from __future__ import annotations

from fractions import Fraction

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import quantities as q
from ansible_collections.gpuhub.platform.plugins.module_utils.quantities import Limits, Resources
from hypothesis import given
from hypothesis import strategies as st
from jupyterhub.traitlets import ByteSpecification
from traitlets import HasTraits

AMOUNTS = st.integers(0, 2**50)
RESOURCES = st.builds(Resources, AMOUNTS, AMOUNTS, AMOUNTS)
LIMITS = st.builds(Limits, *[st.none() | AMOUNTS] * 3)


@pytest.mark.parametrize(
    ("written", "cpu_milli"),
    [
        ("2", 2000),
        (2, 2000),
        (0.1, 100),  # not 101: a float is what it is printed as
        ("0.1", 100),
        ("500m", 500),
        ("+1.5", 1500),
        (".5", 500),
        ("1.", 1000),
        ("1e3", 1_000_000),
        ("1E-3", 1),
        ("1k", 1_000_000),
        ("1Ki", 1_024_000),
        ("100u", 1),  # rounded up, as by the API server
        ("1n", 1),
        ("0.0011", 2),
        ("0", 0),
        ("8E", 2**63 - 1),
    ],
)
def test_cpu(written, cpu_milli):
    assert q.parse_cpu(written) == cpu_milli


@pytest.mark.parametrize(
    ("written", "memory_bytes"),
    [
        ("16Gi", 16 * 2**30),
        ("16G", 16 * 10**9),
        ("1.5Gi", 3 * 2**29),
        ("128974848", 128974848),
        ("129e6", 129_000_000),
        ("129M", 129_000_000),
        ("128974848000m", 128974848),
        ("1m", 1),
        ("0.1Ki", 103),
        ("1k", 1000),
        ("2Ei", 2**61),
        ("7Pi", 7 * 2**50),
        ("3Ti", 3 * 2**40),
        ("5T", 5 * 10**12),
        ("5P", 5 * 10**15),
        ("1E", 10**18),
        ("1E1", 10),
        ("8Ei", 2**63 - 1),
        ("9e99", 2**63 - 1),
    ],
)
def test_memory(written, memory_bytes):
    assert q.parse_memory(written) == memory_bytes


@pytest.mark.parametrize(
    "written",
    ["", " 1", "1 ", "1\n", "-1", "-1Gi", "1gi", "1GB", "1K", "1i", "Gi", "1,5", "1_000", "0x10", "1e", "1e999",
     "1e3Gi", "١", "nan", "inf", float("nan"), float("inf"), -0.5, True, None, [], {}, b"1", "1" * 65],
)  # fmt: skip
def test_what_is_no_amount(written):
    for parse in (q.parse_cpu, q.parse_memory, q.parse_count):
        with pytest.raises(q.QuantityError) as error:
            parse(written)
        assert ascii(written)[:30] in str(error.value)
        assert "write it like" in str(error.value)


def test_devices_are_whole():
    assert [q.parse_count(value) for value in (0, "4", 8.0, "1k")] == [0, 4, 8, 1000]
    for value in ("0.5", 1.5, "500m", "1e50"):
        with pytest.raises(q.QuantityError, match="a whole number"):
            q.parse_count(value)


class Spawner(HasTraits):
    memory = ByteSpecification()


@given(st.decimals(0, 10**6, places=2, allow_nan=False), st.sampled_from("KMGT"))
def test_memory_is_what_kubespawner_reads(number, unit):
    written = f"{number}{unit}"
    # KubeSpawner counts in floats, which end somewhere.
    assert q.parse_spawner_memory(written) == pytest.approx(Spawner(memory=written).memory, rel=1e-12, abs=1)


@pytest.mark.parametrize(("written", "amount"), [("16G", 2**34), ("1.5K", 1536), ("0.3K", 307), (1024, 1024), (5.9, 5)])
def test_memory_of_kubespawner(written, amount):
    assert q.parse_spawner_memory(written) == Spawner(memory=written).memory == amount


@pytest.mark.parametrize("written", ["16Gi", "16", "", "G", "-1G", "16g", "1e3G", None, True])
def test_memory_that_kubespawner_refuses(written):
    with pytest.raises(q.QuantityError):
        q.parse_spawner_memory(written)


@pytest.mark.parametrize(("milli", "cores"), [(0, 0), (1, 0.001), (1500, 1.5), (2000, 2), (8001, 8.001)])
def test_cores_of_the_api(milli, cores):
    found = q.format_cores(milli)
    assert found == cores
    assert type(found) is type(cores)


@pytest.mark.parametrize(
    ("memory_bytes", "gib"),
    [(0, 0), (2**30, 1), (3 * 2**29, 1.5), (2**20, 0.001), (2**19, 0), (10**9, 0.931), (2**30 - 1, 1)],
)
def test_gib_of_the_api(memory_bytes, gib):
    assert q.format_gib(memory_bytes) == gib


@given(st.integers(0, 2**60))
def test_what_is_written_is_read_again(amount):
    assert q.parse_cpu(q.kubernetes_cpu(amount)) == amount
    assert q.parse_memory(q.kubernetes_memory(amount)) == amount
    assert q.parse_cpu(f"{amount}m") == amount
    assert q.parse_memory(str(amount)) == amount


@given(st.decimals(0, 10**9, places=6, allow_nan=False), st.sampled_from(["", "k", "M", "Ki", "Mi", "Gi", "m"]))
def test_reading_is_exact(number, suffix):
    factor = {"": 1, "k": 10**3, "M": 10**6, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "m": Fraction(1, 1000)}[suffix]
    found = q.parse_memory(f"{number}{suffix}")
    assert 0 <= found - Fraction(number) * factor < 1


@given(AMOUNTS)
def test_cores_lose_nothing_on_their_way(milli):
    assert q.parse_cpu(q.format_cores(milli)) == milli


@given(RESOURCES, RESOURCES, LIMITS)
def test_amounts_add_up(one, other, limits):
    assert one + other - other == one
    assert one * 3 == one + one + one
    assert (one - other).at_least_zero() + (other - one).at_least_zero() + one + other == one.largest(other) * 2
    left = limits.minus(one, other)
    assert left == limits.minus(one + other)
    # Somebody who has no more than their limit never gets beyond it by what fits in the rest.
    if one.fits_in(limits) and other.fits_in(limits.minus(one)):
        assert (one + other).fits_in(limits)


def test_what_is_above_is_named():
    room = Limits(cpu_milli=1000, memory_bytes=None, gpu=0)
    assert Resources(1001, 2**60, 1).above(room) == ["cpu_milli", "gpu"]
    assert Resources(1000, 2**60, 0).fits_in(room)
    assert Limits(gpu=1).minus(Resources(gpu=3)) == Limits(gpu=0)


def test_mappings():
    assert q.parse_resources({"cpu": "0.5", "gpu": None}) == Resources(cpu_milli=500)
    assert q.parse_limits({"cpu": 8, "memory": "unlimited"}) == Limits(cpu_milli=8000)
    with pytest.raises(q.QuantityError, match="'x' is no amount"):
        q.parse_limits({"gpu": "x"})
