"""Files and folders in one execution: what differs is changed, and nothing at all if one of them is refused."""

from __future__ import annotations

import base64
import hashlib
import os

import pytest

from .runner import run


def described(path):
    found = path.stat()
    return f"{found.st_mode & 0o7777:04o} {found.st_uid}:{found.st_gid}"


def test_makes_what_is_missing_and_is_done_then(tmp_path):
    wanted = [
        {"path": tmp_path / "folder", "state": "directory", "mode": "0700", "owner": "65532", "group": "65532"},
        {"path": tmp_path / "folder/deeper/file", "content": "text\n", "mode": "0600"},
        {"path": tmp_path / "open", "state": "directory"},
        {"path": tmp_path / "gone", "state": "absent"},
    ]
    (tmp_path / "gone").write_text("old")
    foreseen = run("files", check=True, files=wanted)
    assert [item.name for item in tmp_path.iterdir()] == ["gone"]
    done = run("files", files=wanted)
    assert done["changed"]
    assert done["written"] == [str(item["path"]) for item in wanted[:3]]
    assert done["removed"] == [str(tmp_path / "gone")]
    assert {key: foreseen[key] for key in ("changed", "written", "removed")} == {
        key: done[key] for key in ("changed", "written", "removed")
    }
    assert described(tmp_path / "folder") == "0700 65532:65532"
    assert described(tmp_path / "folder/deeper/file") == "0600 0:0"
    assert described(tmp_path / "open") == "0755 0:0"
    assert (tmp_path / "folder/deeper/file").read_text() == "text\n"
    assert not run("files", files=wanted)["changed"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_text("other"), "other"),
        (lambda path: path.chmod(0o666), "0666 0:0"),
        (lambda path: os.chown(path, 1, 0), "0600 1:0"),
    ],
)
def test_repairs_content_permissions_and_owner_and_shows_which(tmp_path, spoil, said):
    wanted = [{"path": tmp_path / "file", "content": "text\n", "mode": "0600", "owner": "root", "group": "root"}]
    run("files", files=wanted)
    spoil(tmp_path / "file")
    done = run("files", files=wanted)
    assert done["written"] == [str(tmp_path / "file")]
    assert said in done["diff"][0]["before"] and done["diff"][0]["before"] != done["diff"][0]["after"]
    assert described(tmp_path / "file") == "0600 0:0"
    assert (tmp_path / "file").read_text() == "text\n"


def test_content_that_is_no_text_is_shown_by_its_checksum(tmp_path):
    content = bytes(range(256))
    wanted = [{"path": tmp_path / "file", "base64": base64.b64encode(content).decode()}]
    done = run("files", files=wanted)
    assert (tmp_path / "file").read_bytes() == content
    assert done["diff"][0]["after"] == f"binary content, sha256 {hashlib.sha256(content).hexdigest()}\n"
    assert not run("files", files=wanted)["changed"]


@pytest.mark.parametrize(("mode", "shown"), [("0600", "http://u:(hidden)@h:1"), ("0644", "http://u:geheim@h:1")])
def test_secrets_of_files_that_not_everybody_may_read_are_not_shown(tmp_path, mode, shown):
    (tmp_path / "file").write_text("http://u:geheim@h:1")
    (tmp_path / "file").chmod(0o644)
    done = run("files", files=[{"path": tmp_path / "file", "content": "", "mode": mode}])
    assert done["diff"][0]["before"] == shown


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_leaves_the_owner_alone_that_it_was_not_told(tmp_path, kind):
    path = tmp_path / kind
    path.write_text("old") if kind == "file" else path.mkdir()
    os.chown(path, 7, 8)
    shape = {"content": "new"} if kind == "file" else {"state": "directory"}
    run("files", files=[{"path": path, "mode": "0700", **shape}])
    assert described(path) == "0700 7:8"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"path": "folder", "content": "text"}, "folder: it is a directory"),
        ({"path": "folder", "state": "absent"}, "folder: it is a directory"),
        ({"path": "file", "state": "directory"}, "file: it is a file"),
        ({"path": "new"}, "new: a file that shall be present needs"),
        ({"path": "new", "content": "text", "base64": "dGV4dA=="}, "new: a file that shall be present needs"),
        ({"path": "new", "base64": "not base64"}, "new: base64"),
        ({"path": "new", "state": "directory", "content": "text"}, "new: a file that shall be present needs"),
        ({"path": "new", "state": "directory", "owner": "nobody-has-this-name"}, "nobody-has-this-name"),
        ({"path": "new", "state": "directory", "mode": "u=rwx"}, "u=rwx"),
    ],
)
def test_refuses_before_it_changes_anything(tmp_path, wanted, said):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("text")
    first = {"path": tmp_path / "first", "content": "text"}
    refused = run("files", files=[first, {**wanted, "path": tmp_path / wanted["path"]}])
    assert refused["failed"] and said in refused["msg"]
    assert not (tmp_path / "first").exists()
