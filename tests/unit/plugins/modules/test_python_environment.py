"""A Python environment from wheels; it is really built."""

from __future__ import annotations

import io
import subprocess
import tarfile

import pytest

from ..module_utils.bundles import digest, wheel
from .runner import run


class Host:
    """Two wheels in an archive, and a place for an environment."""

    def __init__(self, folder) -> None:
        self.path = folder / "state" / "python"
        self.archive = folder / "wheels.tar"
        self.folder = folder / "wheels"
        wheel(self.folder, "demo-1.0-py3-none-any.whl")
        wheel(self.folder, "demo-2.0-py3-none-any.whl", python=">=3.99")
        self.pack()

    def pack(self):
        with tarfile.open(self.archive, "w:") as tar:
            for file in sorted(self.folder.iterdir()):
                tar.add(file, file.name)
        self.wheels = {file.name: digest(file.read_bytes()) for file in self.folder.iterdir()}

    def run(self, **arguments):
        return run("python_environment", **{"path": self.path, "wheels": self.wheels, **arguments})

    def version(self):
        command = [str(self.path / "bin/python"), "-c", "import demo; print(demo.version)"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def test_from_nothing_and_then_nothing_more(host):
    asked = host.run(state="query")
    assert (asked["correct"], asked["reason"]) == (False, "there is none")
    predicted = host.run(check=True)
    assert predicted["changed"]
    assert not host.path.exists()
    built = host.run(archive=host.archive, imports=["demo"])
    assert built["changed"]
    assert built["packages"] == {"demo": "1.0"}, "the newer one does not fit this Python"
    assert host.version() == "1.0"
    assert not host.archive.exists(), "an archive is not kept"
    again = host.run(archive=host.archive)
    assert (again["changed"], again["correct"], again["packages"]) == (False, True, {"demo": "1.0"})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: (path / "bin/python").unlink(), "its interpreter is gone"),
        (lambda path: next(path.rglob("demo/__init__.py")).unlink(), "added, removed or edited"),
        (lambda path: next(path.rglob("demo/__init__.py")).write_text("version = 'edited by hand'"), "edited"),
        (lambda path: (path / "gpuhub-environment.json").write_text("{"), "its marker cannot be read"),
        (lambda path: (path / "gpuhub-environment.json").unlink(), "was not made by this module"),
    ],
)
def test_what_was_damaged_is_named_and_repaired(host, damage, reason):
    host.run(archive=host.archive)
    damage(host.path)
    host.pack()
    assert reason in host.run(state="query")["reason"]
    assert reason in host.run(check=True)["diff"]["before"]
    host.run(archive=host.archive)
    assert host.version() == "1.0"
    assert host.run(state="query")["correct"]


def test_other_wheels_replace_the_environment_and_the_old_one_goes(host):
    host.run(archive=host.archive)
    old = host.path.resolve()
    wheel(host.folder, "demo-1.5-py3-none-any.whl")
    host.pack()
    assert "different" in host.run(state="query")["reason"]
    assert host.run(archive=host.archive)["packages"] == {"demo": "1.5"}
    assert host.version() == "1.5"
    assert not old.exists()


def test_a_damaged_archive_leaves_the_old_environment(host):
    host.run(archive=host.archive)
    wheel(host.folder, "demo-1.5-py3-none-any.whl")
    host.pack()
    content = bytearray(host.archive.read_bytes())
    content[content.index(b"version = '1.5'") + 11] ^= 1
    host.archive.write_bytes(content)
    failed = host.run(archive=host.archive)
    assert "demo-1.5-py3-none-any.whl is damaged" in failed["msg"]
    assert host.version() == "1.0"
    assert len(list(host.path.parent.iterdir())) == 2, "the environment and the link to it"


def test_what_cannot_be_imported_is_not_put_in_place(host):
    failed = host.run(archive=host.archive, imports=["nothing_like_it"])
    assert "nothing_like_it cannot be imported" in failed["msg"]
    assert not host.path.exists()


def test_what_a_killed_run_left_behind_is_removed(host):
    left = host.path.parent / ".python-abcdef"
    left.mkdir(parents=True)
    host.run(archive=host.archive)
    assert not left.exists()
    assert host.version() == "1.0"


def test_a_folder_that_is_in_the_way_is_replaced(host):
    (host.path / "bin").mkdir(parents=True)
    host.run(archive=host.archive)
    assert host.version() == "1.0"
    assert len(list(host.path.parent.iterdir())) == 2


def test_a_left_over_archive_is_removed(host):
    host.run(archive=host.archive)
    host.pack()
    assert not host.run(state="query", archive=host.archive)["correct"]
    assert host.run(archive=host.archive)["changed"]
    assert not host.archive.exists()


@pytest.mark.parametrize("name", ["../demo-1-py3-none-any.whl", "/tmp/demo-1-py3-none-any.whl", "demo.txt"])
def test_hostile_names_are_refused(host, name):
    failed = host.run(wheels={name: "sha256:" + "0" * 64}, archive=host.archive)
    assert failed["failed"]
    assert name in failed["msg"]


def test_an_archive_that_lacks_a_wheel_is_said(host):
    with tarfile.open(host.archive, "w:") as tar:
        tar.addfile(tarfile.TarInfo("x"), io.BytesIO(b""))
    assert "does not hold demo-1.0" in host.run(archive=host.archive)["msg"]
