"""The Python that runs inside the hub, packed as one archive. Pure."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

FILE_NAME = "gpuhub-core.zip"

# Modules of plugins/module_utils that run in the cluster too; there they are the package gpuhub_core.
CORE_MODULES = (
    "gpu_products.py",
    "located_tree.py",
    "pod_requests.py",
    "quantities.py",
    "quota_policy.py",
    "quota_profiles.py",
    "redaction.py",
    "usernames.py",
)
_PACKAGE_DOC = b'"""The core of gpuhub.platform, the same files that its Ansible modules use."""\n'

# The oldest time that a zip archive can state.
_TIME = (1980, 1, 1, 0, 0, 0)


class CoreArchiveError(Exception):
    """The collection lacks a file that belongs into the archive."""


def members(collection: Path) -> dict[str, bytes]:
    """Return path -> content of everything that belongs into the archive; `collection` is the collection's root."""
    files = {"gpuhub_core/__init__.py": _PACKAGE_DOC}
    for name in CORE_MODULES:
        files[f"gpuhub_core/{name}"] = _read(collection / "plugins" / "module_utils" / name)
    package = collection / "services" / "hub" / "gpuhub_hub"
    for path in [package / "__init__.py", *package.rglob("*.py"), *package.rglob("*.html")]:
        files[path.relative_to(package.parent).as_posix()] = _read(path)
    return files


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CoreArchiveError(f"{path}: {error.strerror}; the hub's code comes from there") from error


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return a zip archive whose bytes depend on names and contents only: sorted, one time, stored uncompressed.

    Uncompressed because zlib's output differs between versions, and with it the checksum that restarts the hub.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, files[name])
    return buffer.getvalue()


def checksum(archive: bytes) -> str:
    """Hex SHA-256 of an archive."""
    return hashlib.sha256(archive).hexdigest()
