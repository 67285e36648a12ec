"""Python wheels without pip: which of them fit an interpreter, what they need, and how they are unpacked.

Covers what the head's environment is made of (pure wheels, CPython extensions, abi3, manylinux), not all of packaging.
"""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath
from typing import NamedTuple

Version = tuple[int, ...]

_FILE = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._]*)-(?P<version>[A-Za-z0-9_.!+]+)(?:-[0-9][^-]*)?"
    r"-(?P<python>[a-z0-9.]+)-(?P<abi>[a-z0-9_.]+)-(?P<platform>[a-z0-9_.]+)\.whl"
)
_MANYLINUX = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?")
_CLAUSE = re.compile(r"\s*(~=|===?|!=|<=|>=|<|>)\s*([0-9][^\s,]*)\s*")
_MARKER = re.compile(r"\s*([a-z_]+)\s*(==|!=|<=|>=|<|>)\s*['\"]([^'\"]*)['\"]\s*")


class WheelError(Exception):
    """A wheel that cannot be used; the message names the file."""


class Interpreter(NamedTuple):
    """What decides whether a wheel fits: Python (3, 11), machine ``x86_64``, glibc's minor version (None: musl)."""

    version: tuple[int, int]
    machine: str
    glibc: int | None

    @classmethod
    def of(cls, version: str, machine: str = "x86_64", glibc: int | None = 999) -> Interpreter:
        """The interpreter of version ``3.11`` or ``3.11.2``; by default on a current glibc. Raises WheelError."""
        match = re.match(r"(3)\.(\d+)", version)
        if match is None:
            raise WheelError(f"{version!r} is not a version of Python 3")
        return cls((3, int(match.group(2))), machine, glibc)


class Wheel(NamedTuple):
    """The parts of a wheel's file name; `name` is normalised."""

    file: str
    name: str
    version: str
    pythons: tuple[str, ...]
    abis: tuple[str, ...]
    platforms: tuple[str, ...]


class Metadata(NamedTuple):
    """What a wheel's METADATA says: Requires-Python and Requires-Dist."""

    requires_python: str
    requires: tuple[str, ...]


def normalise(name: str) -> str:
    """Name of a project as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_file_name(file: str) -> Wheel:
    """Read a wheel's file name. Raises WheelError."""
    match = _FILE.fullmatch(PurePosixPath(file).name)
    if match is None:
        raise WheelError(f"{file}: not the file name of a wheel")
    return Wheel(
        file,
        normalise(match["name"]),
        match["version"],
        tuple(match["python"].split(".")),
        tuple(match["abi"].split(".")),
        tuple(match["platform"].split(".")),
    )


def release(version: str) -> Version:
    """The numbers of a version, without zeros at its end: ``2.10.0`` is (2, 10). Pre-releases count as releases."""
    match = re.match(r"v?(?:\d+!)?(\d+(?:\.\d+)*)", version)
    numbers = [int(part) for part in match.group(1).split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def satisfies(version: str, specifier: str) -> bool:
    """Whether a version is within ``>=3.8,!=3.9.1,<4``; a clause that is not understood does not count."""
    found = release(version)
    for clause in specifier.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            continue
        operator, text = match.groups()
        if text.endswith(".*"):
            prefix = tuple(int(part) for part in text[:-2].split(".") if part.isdigit())
            padded = found + (0,) * (len(prefix) - len(found))
            equal = padded[: len(prefix)] == prefix
            if (operator == "==" and not equal) or (operator == "!=" and equal):
                return False
            continue
        wanted = release(text)
        if operator == "~=":
            parts = [int(part) for part in re.findall(r"\d+", text)][:-1]
            padded = found + (0,) * (len(parts) - len(found))
            if found < wanted or list(padded[: len(parts)]) != parts:
                return False
        elif not _compare(found, operator, wanted):
            return False
    return True


def _compare(left: Version | str, operator: str, right: Version | str) -> bool:
    return {
        "==": left == right,
        "===": left == right,
        "!=": left != right,
        "<=": left <= right,  # type: ignore[operator]
        ">=": left >= right,  # type: ignore[operator]
        "<": left < right,  # type: ignore[operator]
        ">": left > right,  # type: ignore[operator]
    }[operator]


def rank(wheel: Wheel, interpreter: Interpreter) -> tuple[int, int, int] | None:
    """How well a wheel fits, None if it does not: compiled for this Python, stable ABI, pure; then the newest libc."""
    ranks = [
        (abi_rank, python_rank, platform_rank)
        for python in wheel.pythons
        for abi in wheel.abis
        for platform in wheel.platforms
        for abi_rank, python_rank in [_python_rank(python, abi, interpreter)]
        for platform_rank in [_platform_rank(platform, interpreter)]
        if abi_rank >= 0 and platform_rank >= 0
    ]
    return max(ranks, default=None)


def _python_rank(python: str, abi: str, interpreter: Interpreter) -> tuple[int, int]:
    major, minor = interpreter.version
    match = re.fullmatch(r"(cp|py)3(\d*)", python)
    if match is None:
        return -1, 0
    wanted = int(match.group(2) or 0)
    if match.group(1) == "cp" and abi == f"cp{major}{minor}":
        return (3, wanted) if wanted == minor else (-1, 0)
    if match.group(1) == "cp" and abi == "abi3":
        return (2, wanted) if wanted <= minor else (-1, 0)
    if abi == "none" and (wanted <= minor if match.group(1) == "py" else wanted == minor):
        return 1, wanted
    return -1, 0


def _platform_rank(platform: str, interpreter: Interpreter) -> int:
    if platform == "any":
        return 0
    match = re.fullmatch(
        r"(manylinux_2_(?P<minor>\d+)|manylinux1|manylinux2010|manylinux2014|linux)_(?P<machine>.+)", platform
    )
    if match is None or match["machine"] != interpreter.machine:
        return -1
    kind = platform[: -len(match["machine"]) - 1]
    if kind == "linux":
        return 1
    minor = int(match["minor"]) if match["minor"] else _MANYLINUX[kind]
    return 1 + minor if interpreter.glibc is not None and minor <= interpreter.glibc else -1


def choose(wheels: Mapping[Wheel, Metadata], interpreter: Interpreter) -> dict[str, Wheel]:
    """The wheel to use of each project: of those that fit the newest version, of these the one that fits best."""
    chosen: dict[str, tuple[Version, tuple[int, int, int], Wheel]] = {}
    python = ".".join(map(str, interpreter.version))
    for wheel, metadata in sorted(wheels.items()):
        fit = rank(wheel, interpreter)
        if fit is None or not _python_allowed(metadata.requires_python, python):
            continue
        candidate = (release(wheel.version), fit, wheel)
        if wheel.name not in chosen or candidate[:2] > chosen[wheel.name][:2]:
            chosen[wheel.name] = candidate
    return {name: wheel for name, (_release, _fit, wheel) in sorted(chosen.items())}


def _python_allowed(specifier: str, python: str) -> bool:
    # 3.11 stands for any 3.11.x: an exclusion of 3.11.1 does not exclude it.
    clauses = [clause for clause in specifier.split(",") if not re.match(r"\s*!=\s*\d+\.\d+\.\d+", clause)]
    clauses = [re.sub(r"(>=\s*\d+\.\d+)\.\d+", r"\1", clause) for clause in clauses]
    return satisfies(python, ",".join(clauses))


def closure(
    wheels: Mapping[Wheel, Metadata], requirements: Iterable[str], interpreter: Interpreter
) -> tuple[dict[str, Wheel], dict[str, str]]:
    """The wheels that `requirements` (``name==version``) need on an interpreter, and what is missing with its reason.

    Extras are not followed.
    """
    chosen = choose(wheels, interpreter)
    python = ".".join(map(str, interpreter.version))
    found: dict[str, Wheel] = {}
    missing: dict[str, str] = {}
    queue = [(requirement, "") for requirement in requirements]
    while queue:
        text, parent = queue.pop(0)
        match = _REQUIREMENT.fullmatch(text)
        if match is None:
            missing[text] = "is not a requirement that can be read"
            continue
        name, specifier, marker = normalise(match.group(1)), match.group(2).strip(), match.group(3) or ""
        if not _marker_applies(marker, python, interpreter.machine):
            continue
        reason = f"needed by {parent}" if parent else ""
        wheel = chosen.get(name)
        if wheel is None or not satisfies(wheel.version, specifier):
            holds = f"; the newest that fits Python {python} is {wheel.version}" if wheel else ""
            missing[f"{name}{specifier}"] = f"no wheel for Python {python}{holds}{', ' + reason if reason else ''}"
            continue
        if name not in found:
            found[name] = wheel
            queue += [(required, f"{wheel.name} {wheel.version}") for required in wheels[wheel].requires]
    return found, missing


def _marker_applies(marker: str, python: str, machine: str) -> bool:
    """Evaluate ``python_version < "3.11" and sys_platform == "linux"``; an extra, or what is not understood, is no."""
    if not marker.strip():
        return True
    values = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }

    def holds(comparison: str) -> bool:
        match = _MARKER.fullmatch(comparison.strip().strip("()"))
        if match is None or match.group(1) not in values:
            return False
        value, operator, wanted = values[match.group(1)], match.group(2), match.group(3)
        if match.group(1).startswith("python"):
            return _compare(release(value), operator, release(wanted))
        return _compare(value, operator, wanted)

    return any(all(holds(part) for part in re.split(r"\band\b", either)) for either in re.split(r"\bor\b", marker))


def read_metadata(path: Path) -> Metadata:
    """Read METADATA of a wheel file. Raises WheelError."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
            if len(names) != 1:
                raise WheelError(f"{path.name}: has {len(names)} METADATA files")
            headers = HeaderParser().parsestr(archive.read(names[0]).decode("utf-8", "replace"))
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise WheelError(f"{path.name}: not a wheel ({error})") from error
    return Metadata(headers.get("Requires-Python") or "", tuple(headers.get_all("Requires-Dist") or ()))


def unpack(path: Path, site_packages: Path) -> None:
    """Unpack a wheel into a site-packages folder; its scripts and data files are left out. Raises WheelError."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                target = _target(path.name, member.filename)
                if target is None or member.is_dir():
                    continue
                file = site_packages / target
                file.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, file.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
                file.chmod(0o755 if member.external_attr >> 16 & 0o111 else 0o644)
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise WheelError(f"{path.name}: cannot be unpacked ({error})") from error


def _target(wheel: str, name: str) -> Path | None:
    """Where a member goes below site-packages; None for what is not installed."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise WheelError(f"{wheel}: the member {name!r} leads out of site-packages")
    if parts[0].endswith(".data"):
        return Path(*parts[2:]) if len(parts) > 2 and parts[1] in ("purelib", "platlib") else None
    return Path(*parts)


def listing(site_packages: Path) -> list[str]:
    """``path size`` of every installed file, sorted: what a deleted or edited file changes. Bytecode does not count."""
    lines = []
    for folder, folders, files in os.walk(site_packages):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in files:
            file = Path(folder, name)
            lines.append(f"{file.relative_to(site_packages).as_posix()} {file.lstat().st_size}")
    return sorted(lines)
