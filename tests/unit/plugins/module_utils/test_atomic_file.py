"""Files that are replaced as a whole."""

from __future__ import annotations

import os

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils.atomic_file import write_text


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o660])
def test_text_and_mode_are_as_asked_whatever_was_there_and_whatever_the_umask(tmp_path, mode):
    path = tmp_path / "file"
    path.write_text("old and longer")
    (tmp_path / ".file.gpuhub").write_text("left by a killed write")
    umask = os.umask(0o077)
    try:
        write_text(path, "new", mode)
    finally:
        os.umask(umask)
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o7777 == mode
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_the_old_file_stays_when_the_new_one_cannot_be_written(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\udc80", 0o600)
    assert path.read_text() == "old"
