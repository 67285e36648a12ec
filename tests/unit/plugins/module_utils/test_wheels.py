"""Wheels without pip."""

from __future__ import annotations

import zipfile

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import wheels
from ansible_collections.gpuhub.platform.plugins.module_utils.wheels import Interpreter, Metadata, WheelError

from .bundles import wheel

BOOKWORM = Interpreter.of("3.11", glibc=36)
FOCAL = Interpreter.of("3.9.5", glibc=31)
MUSL = Interpreter.of("3.11", glibc=None)
ARM = Interpreter.of("3.11", machine="aarch64", glibc=36)


@pytest.mark.parametrize(
    ("file", "fits"),
    [
        ("a-1-py3-none-any.whl", [BOOKWORM, FOCAL, MUSL, ARM]),
        ("a-1-py2.py3-none-any.whl", [BOOKWORM, FOCAL, MUSL, ARM]),
        ("a-1-py2-none-any.whl", []),
        ("a-1-py311-none-any.whl", [BOOKWORM, MUSL, ARM]),
        ("a-1-cp311-cp311-manylinux_2_17_x86_64.whl", [BOOKWORM]),
        ("a-1-cp311-cp311-manylinux2014_aarch64.manylinux_2_17_aarch64.whl", [ARM]),
        ("a-1-cp39-cp39-manylinux1_x86_64.whl", [FOCAL]),
        ("a-1-cp39-cp39-manylinux_2_34_x86_64.whl", []),
        ("a-1-cp37-abi3-manylinux_2_28_x86_64.whl", [BOOKWORM, FOCAL]),
        ("a-1-cp311-abi3-manylinux_2_34_x86_64.whl", [BOOKWORM]),
        ("a-1-cp312-abi3-manylinux_2_17_x86_64.whl", []),
        ("a-1-cp311-cp311-musllinux_1_2_x86_64.whl", []),
        ("a-1-cp311-cp311-win_amd64.whl", []),
        ("a-1-cp311-cp311t-manylinux_2_17_x86_64.whl", []),
        ("a-1-1build-cp311-cp311-linux_x86_64.whl", [BOOKWORM, MUSL]),
    ],
)
def test_which_wheels_fit(file, fits):
    parsed = wheels.parse_file_name(file)
    found = [one for one in (BOOKWORM, FOCAL, MUSL, ARM) if wheels.rank(parsed, one) is not None]
    assert found == fits


@pytest.mark.parametrize("file", ["a.whl", "a-1-py3-none-any.zip", "../a-1-py3-none-any.whl/x", "a-1-py3-none.whl", ""])
def test_other_file_names_are_refused(file):
    with pytest.raises(WheelError, match="not the file name of a wheel"):
        wheels.parse_file_name(file)


@pytest.mark.parametrize(
    ("version", "specifier", "expected"),
    [
        ("3.9", ">=3.8", True),
        ("3.9", ">=3.9,<4", True),
        ("3.9", ">=3.10", False),
        ("3.10", ">=3.9", True),
        ("2.10.0", "<2.9", False),
        ("1.26.20", "!=1.26.20", False),
        ("1.0", "==1.0.0", True),
        ("1.4.2", "==1.4.*", True),
        ("1.40", "==1.4.*", False),
        ("1.5", "!=1.4.*", True),
        ("2.5", "~=2.2", True),
        ("3.0", "~=2.2", False),
        ("2.2.9", "~=2.2.1", True),
        ("2.3", "~=2.2.1", False),
        ("1.0", "", True),
    ],
)
def test_versions(version, specifier, expected):
    assert wheels.satisfies(version, specifier) is expected


def table(*rows):
    return {wheels.parse_file_name(file): Metadata(python, tuple(requires)) for file, python, requires in rows}


def test_the_newest_version_that_this_python_may_use_is_chosen():
    known = table(
        ("urllib3-2.5.0-py3-none-any.whl", ">=3.9", ()),
        ("urllib3-2.10.0-py3-none-any.whl", ">=3.10", ()),
        ("yaml-6-cp311-cp311-manylinux_2_17_x86_64.whl", "", ()),
        ("yaml-6-cp37-abi3-manylinux_2_17_x86_64.whl", "", ()),
        ("yaml-6-py3-none-any.whl", "", ()),
    )
    assert [found.file for found in wheels.choose(known, BOOKWORM).values()] == [
        "urllib3-2.10.0-py3-none-any.whl",
        "yaml-6-cp311-cp311-manylinux_2_17_x86_64.whl",
    ]
    assert [found.file for found in wheels.choose(known, FOCAL).values()] == [
        "urllib3-2.5.0-py3-none-any.whl",
        "yaml-6-cp37-abi3-manylinux_2_17_x86_64.whl",
    ]


def test_a_python_given_without_its_patch_version_is_any_of_them():
    known = table(("a-1-py3-none-any.whl", ">=3.9,!=3.11.0,!=3.11.1", ()), ("b-1-py3-none-any.whl", ">=3.11.4", ()))
    assert set(wheels.choose(known, BOOKWORM)) == {"a", "b"}


@pytest.mark.parametrize(
    ("requires", "needed"),
    [
        ("b", True),
        ("b>=1", True),
        ("b (>=1)", True),
        ("b[extra1,extra2]>=1", True),
        ("b ; python_version < '3.12'", True),
        ('b; python_version >= "3.12"', False),
        ("b; python_version >= '3.9' and sys_platform == 'win32'", False),
        ("b; sys_platform == 'win32' or platform_python_implementation == 'CPython'", True),
        ("b; extra == 'tests'", False),
        ("b; (python_version < '3.12') and extra == 'tests'", False),
        ("b>=1; platform_machine == 'x86_64'", True),
    ],
)
def test_markers(requires, needed):
    known = table(("a-1-py3-none-any.whl", "", [requires]), ("b-1-py3-none-any.whl", "", ()))
    found, missing = wheels.closure(known, ["A==1"], BOOKWORM)
    assert missing == {}
    assert ("b" in found) is needed


def test_a_circle_of_needs_ends():
    known = table(("a-1-py3-none-any.whl", "", ["b"]), ("b-1-py3-none-any.whl", "", ["a"]))
    assert set(wheels.closure(known, ["a==1"], BOOKWORM)[0]) == {"a", "b"}


def test_metadata_and_unpacking(tmp_path):
    members = {
        "demo-1.data/purelib/extra/mod.py": "x = 1\n",
        "demo-1.data/scripts/demo": "#!python\n",
        "demo-1.data/data/etc/passwd": "no\n",
    }
    file = wheel(tmp_path, "demo-1-py3-none-any.whl", ("six>=1",), ">=3.8", **members)
    assert wheels.read_metadata(file) == Metadata(">=3.8", ("six>=1",))
    wheels.unpack(file, tmp_path / "site")
    names = sorted(path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.py"))
    assert names == ["demo/__init__.py", "extra/mod.py"]
    assert not list((tmp_path / "site").rglob("passwd"))


@pytest.mark.parametrize("name", ["../evil.py", "/evil.py", "demo/../../evil.py", "a\\..\\evil.py"])
def test_a_member_that_leads_out_is_refused(tmp_path, name):
    file = wheel(tmp_path, "demo-1-py3-none-any.whl")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), "evil")
    with pytest.raises(WheelError, match="leads out"):
        wheels.unpack(file, tmp_path / "site")
    assert not list(tmp_path.rglob("evil.py"))


def test_a_damaged_wheel_is_refused(tmp_path):
    file = wheel(tmp_path, "demo-1-py3-none-any.whl")
    file.write_bytes(file.read_bytes()[:-30])
    for use in (wheels.read_metadata, lambda path: wheels.unpack(path, tmp_path / "site")):
        with pytest.raises(WheelError, match=r"demo-1-py3-none-any\.whl"):
            use(file)
