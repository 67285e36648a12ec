"""Amounts of CPU, memory and GPUs, exact. Pure; the hub and the portal use it too.

The units of the platform, everywhere:

| amount | unit | in names |
|---|---|---|
| CPU | integer thousandths of a core | `cpu_milli` |
| memory | integer bytes | `memory_bytes` |
| GPU | integer devices | `gpu` |
| use over time | amount x integer seconds | `gpu_seconds`, `cpu_milli_seconds`, `memory_mib_seconds` |
| money | integer millionths of a currency's unit | `micro` |

What has no limit is None in Python, null in JSON and `unlimited` in YAML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import lru_cache
from typing import Any, Union

MILLI_PER_CORE = 1000
BYTES_PER_MIB = 2**20
BYTES_PER_GIB = 2**30
SECONDS_PER_HOUR = 3600
MICRO_PER_UNIT = 10**6

# The largest amount that Kubernetes knows; it makes this of larger ones, and so does what a database can hold.
LARGEST = 2**63 - 1

UNLIMITED = "unlimited"

_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SUFFIXES = {
    **{suffix: Fraction(2) ** power for suffix, power in _BINARY.items()},
    **{suffix: Fraction(10) ** power for suffix, power in _DECIMAL.items()},
}
_SPAWNER = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

_NUMBER = r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)"
_QUANTITY = re.compile(_NUMBER + r"(?:[eE]([+-]?[0-9]{1,2})|([KMGTPE]i|[numkMGTPE])?)")
_SPAWNER_QUANTITY = re.compile(_NUMBER + "([KMGT])")
# The API server writes quantities in a few digits; a text of a million is nobody's amount.
_LONGEST = 64

Number = Union[int, float]


class QuantityError(ValueError):
    """A value that is no amount; the text names it."""


def _refusal(value: Any, example: str) -> QuantityError:
    shown = ascii(value)
    if len(shown) > _LONGEST:
        shown = f"{shown[:40]}..."
    return QuantityError(f"{shown} is no amount; write it like {example}")


# A cluster has few different amounts, and reads them again with every pod.
@lru_cache(maxsize=4096)
def _meaning(written: str) -> Fraction | None:
    """What a Kubernetes quantity means; None if it is none."""
    match = _QUANTITY.fullmatch(written) if len(written) <= _LONGEST else None
    if not match:
        return None
    number, exponent, suffix = match.groups()
    return Fraction(number) * (Fraction(10) ** int(exponent) if exponent else _SUFFIXES[suffix or ""])


def _exact(value: Any, example: str) -> Fraction:
    """What an amount means; numbers mean what they are printed as. Raises QuantityError."""
    amount = _meaning(str(value))
    if amount is None:
        raise _refusal(value, example)
    return amount


def _rounded_up(amount: Fraction) -> int:
    return min(-(-amount.numerator // amount.denominator), LARGEST)


def parse_cpu(value: str | int | float) -> int:
    """Return cores as thousandths: `"500m"`, `2`, `0.1`, `"1e3"`. Rounded up, as the API server and scheduler do."""
    return _rounded_up(_exact(value, "2, 0.5 or 500m") * MILLI_PER_CORE)


def parse_memory(value: str | int | float) -> int:
    """Return memory as bytes: `"16Gi"` is 16 x 2^30, `"16G"` is 16 x 10^9. Rounded up, as the API server does."""
    return _rounded_up(_exact(value, "16Gi or 512Mi"))


def parse_count(value: str | int | float) -> int:
    """Return a number of devices. Raises QuantityError for what is no whole number."""
    amount = _exact(value, "4, a whole number")
    if amount.denominator != 1 or amount > LARGEST:
        raise _refusal(value, "4, a whole number")
    return int(amount)


def parse_spawner_memory(value: str | int | float) -> int:
    """Return memory as bytes as KubeSpawner reads it: K, M, G and T are powers of 2^10, numbers are bytes, cut off."""
    if isinstance(value, str):
        match = _SPAWNER_QUANTITY.fullmatch(value) if len(value) <= _LONGEST else None
        if not match:
            raise _refusal(value, "16G or 512M, where G is 2^30 bytes")
        return int(Fraction(match[1]) * _SPAWNER[match[2]])
    return int(_exact(value, "16G, or a number of bytes"))


def _thousandths(amount: Fraction) -> Number:
    """A number with at most three decimals, whole ones without a point; halves are rounded up."""
    milli = (2 * amount.numerator * 1000 + amount.denominator) // (2 * amount.denominator)
    return milli // 1000 if milli % 1000 == 0 else milli / 1000


def format_cores(cpu_milli: int) -> Number:
    """Return cores as the API shows them: 1500 is 1.5, 2000 is 2."""
    return _thousandths(Fraction(cpu_milli, MILLI_PER_CORE))


def format_gib(memory_bytes: int) -> Number:
    """Return memory in GiB as the API shows it, to three decimals: 2^30 is 1."""
    return _thousandths(Fraction(memory_bytes, BYTES_PER_GIB))


def kubernetes_cpu(cpu_milli: int) -> str:
    """Return cores as Kubernetes writes them: 1500 is `1500m`, 2000 is `2`."""
    return f"{cpu_milli}m" if cpu_milli % MILLI_PER_CORE else str(cpu_milli // MILLI_PER_CORE)


def kubernetes_memory(memory_bytes: int) -> str:
    """Return memory as Kubernetes writes it, in the largest unit that keeps it whole: 2^30 is `1Gi`."""
    for suffix, power in reversed(list(_BINARY.items())):
        if memory_bytes and memory_bytes % 2**power == 0:
            return f"{memory_bytes >> power}{suffix}"
    return str(memory_bytes)


@dataclass(frozen=True)
class Resources:
    """Amounts that somebody holds or asks for. A difference may be negative."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    gpu: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(*(mine + theirs for mine, theirs in zip(self.amounts(), other.amounts())))

    def __sub__(self, other: Resources) -> Resources:
        return Resources(*(mine - theirs for mine, theirs in zip(self.amounts(), other.amounts())))

    def __mul__(self, times: int) -> Resources:
        return Resources(*(amount * times for amount in self.amounts()))

    def amounts(self) -> tuple[int, int, int]:
        """CPU, memory, GPU."""
        return self.cpu_milli, self.memory_bytes, self.gpu

    def largest(self, other: Resources) -> Resources:
        """The larger of both, amount by amount."""
        return Resources(*map(max, self.amounts(), other.amounts()))

    def at_least_zero(self) -> Resources:
        """Nothing instead of less than nothing."""
        return self.largest(Resources())

    def fits_in(self, room: Resources | Limits) -> bool:
        """Whether no amount is above that of `room`."""
        return not self.above(room)

    def above(self, room: Resources | Limits) -> list[str]:
        """The names of the amounts that are above those of `room`."""
        pairs = zip(RESOURCE_NAMES, self.amounts(), room.amounts())
        return [name for name, mine, theirs in pairs if theirs is not None and mine > theirs]


@dataclass(frozen=True)
class Limits:
    """The most that somebody may have at a time; None is without limit."""

    cpu_milli: int | None = None
    memory_bytes: int | None = None
    gpu: int | None = None

    def amounts(self) -> tuple[int | None, int | None, int | None]:
        """CPU, memory, GPU."""
        return self.cpu_milli, self.memory_bytes, self.gpu

    def minus(self, *held: Resources) -> Limits:
        """What is left when this is held; nothing, and not less, where more is held than may be."""
        left = self.amounts()
        for resources in held:
            left = tuple(None if most is None else most - amount for most, amount in zip(left, resources.amounts()))
        return Limits(*(None if amount is None else max(amount, 0) for amount in left))


RESOURCE_NAMES = tuple(field.name for field in fields(Resources))
# As people write them in files, and how each is read.
WRITTEN = {"cpu": parse_cpu, "memory": parse_memory, "gpu": parse_count}


def parse_resources(written: Mapping[str, Any]) -> Resources:
    """Return `{cpu: 2, memory: 8Gi, gpu: 1}` as amounts; what is missing is nothing. Raises QuantityError."""
    return Resources(*(parse(written.get(name) or 0) for name, parse in WRITTEN.items()))


def parse_limits(written: Mapping[str, Any]) -> Limits:
    """Return `{cpu: 8, memory: 32Gi, gpu: unlimited}` as limits; what is missing or null is without limit."""
    return Limits(
        *(None if written.get(name) in (None, UNLIMITED) else parse(written[name]) for name, parse in WRITTEN.items())
    )
