"""The archive with the hub's Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import core_archive

COLLECTION = Path(__file__).parents[4]


def test_bytes_depend_on_names_and_contents_only(tmp_path):
    copy = tmp_path / "copy"
    for part in ("plugins/module_utils", "services/hub"):
        shutil.copytree(COLLECTION / part, copy / part, copy_function=shutil.copyfile)
    for path in copy.rglob("*"):
        os.utime(path, (0, 1_000_000_000))
        path.chmod(0o700)
    (copy / "services/hub/gpuhub_hub/__pycache__").mkdir(exist_ok=True)
    (copy / "services/hub/gpuhub_hub/__pycache__/native.cpython-311.pyc").write_bytes(b"")
    first = core_archive.pack(core_archive.members(COLLECTION))
    assert first == core_archive.pack(core_archive.members(copy))
    assert first == core_archive.pack(dict(reversed(core_archive.members(COLLECTION).items())))
    (copy / "services/hub/gpuhub_hub/native.py").write_text("")
    assert core_archive.checksum(first) != core_archive.checksum(core_archive.pack(core_archive.members(copy)))


def test_it_imports_without_ansible(tmp_path):
    path = tmp_path / core_archive.FILE_NAME
    path.write_bytes(core_archive.pack(core_archive.members(COLLECTION)))
    modules = [f"gpuhub_core.{Path(name).stem}" for name in core_archive.CORE_MODULES]
    code = f"import sys; sys.modules['ansible'] = None; sys.path.insert(0, {str(path)!r})\n" + "".join(
        f"import {module}\n" for module in ["gpuhub_hub", *modules]
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(core_archive.CoreArchiveError, match=r"gpu_products\.py: No such file"):
        core_archive.members(tmp_path)


def test_the_portals_image_has_the_same_core():
    recipe = (COLLECTION / "images/usage-portal/Containerfile").read_text()
    assert re.findall(r"plugins/module_utils/(\S+\.py)", recipe) == list(core_archive.CORE_MODULES)
