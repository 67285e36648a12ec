"""Users' folders."""

from __future__ import annotations

import asyncio
import logging
import os
from types import SimpleNamespace

import pytest

HOSTILE = [
    "..",
    ".",
    "/",
    "../../etc",
    "a/../../b",
    "-",
    "~root",
    "a\0b",
    "a\nb",
    "{username}",
    "ü" * 300,
    "A",
    "",
    "a--b",
]


@pytest.fixture
def storage(archive):
    from gpuhub_hub import storage

    return storage


@pytest.mark.parametrize("name", ["alice", "alice.b", *HOSTILE])
def test_folders_stay_inside(storage, tmp_path, name):
    users = tmp_path / "users"
    users.mkdir()
    old_umask = os.umask(0o077)
    try:
        folder = storage.make_user_folder(users, name)
    finally:
        os.umask(old_umask)
    assert folder.parent == users
    assert folder.resolve().parent == users.resolve()
    assert folder.stat().st_mode & 0o7777 == 0o770
    assert storage.make_user_folder(users, name) == folder
    assert sorted(p.name for p in tmp_path.iterdir()) == ["users"]


def test_missing_storage_is_not_made(storage, tmp_path):
    with pytest.raises(storage.StorageUnavailableError, match="alice: No such file") as error:
        storage.make_user_folder(tmp_path / "users", "alice")
    assert "administrator" in error.value.jupyterhub_message
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way(storage, tmp_path):
    (tmp_path / "alice").write_text("")
    with pytest.raises(storage.StorageUnavailableError, match="alice is not a folder"):
        storage.make_user_folder(tmp_path, "alice")


def test_a_hanging_storage_does_not_hang_the_hub(storage, tmp_path, monkeypatch):
    release = __import__("threading").Event()
    monkeypatch.setattr(storage, "TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(storage, "make_user_folder", lambda users, name: release.wait(20))
    spawner = SimpleNamespace(user=SimpleNamespace(name="alice"), log=logging.getLogger(), language="zh-Hans")

    async def start():
        hook = asyncio.ensure_future(storage.hook(tmp_path)(spawner))
        try:
            await hook
        finally:
            release.set()

    with pytest.raises(storage.StorageUnavailableError, match="no answer within") as error:
        asyncio.run(start())
    assert error.value.jupyterhub_message == "无法使用共享存储：no answer within 0.1 s。请通知管理员。"


def test_a_folder_that_cannot_be_made_is_said_in_the_user_s_language(storage, tmp_path):
    spawner = SimpleNamespace(user=SimpleNamespace(name="alice"), log=logging.getLogger(), language="zh-Hant")
    (tmp_path / "alice").write_text("")
    with pytest.raises(storage.StorageUnavailableError) as error:
        asyncio.run(storage.hook(tmp_path)(spawner))
    assert error.value.jupyterhub_message == "無法使用共用儲存空間：alice is not a folder。請通知管理員。"


def test_the_hook_makes_the_folder(storage, tmp_path):
    spawner = SimpleNamespace(user=SimpleNamespace(name="jane@x.com"), log=logging.getLogger(), language="en")
    asyncio.run(storage.hook(tmp_path)(spawner))
    assert [p.name for p in tmp_path.iterdir()] == [storage.slug("jane@x.com")]
