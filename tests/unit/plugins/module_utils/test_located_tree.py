"""YAML with the lines of its entries."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible_collections.gpuhub.platform.plugins.module_utils import located_tree
from ansible_collections.gpuhub.platform.plugins.module_utils.located_tree import LocatedTreeError, at

read = functools.partial(located_tree.read, compose=functools.partial(yaml.compose, Loader=yaml.SafeLoader))


def test_entries_and_their_lines():
    tree, lines = read("""
# a comment
groups:
  vision: {gpu: 4, members: [alice,
    bob]}
  nlp:
    budgets:
    - gpu_hours: 5
      every: day
""")
    assert tree == {
        "groups": {
            "vision": {"gpu": "4", "members": ["alice", "bob"]},
            "nlp": {"budgets": [{"gpu_hours": "5", "every": "day"}]},
        }
    }
    assert lines["groups",] == 3
    assert lines["groups", "vision", "gpu"] == 4
    assert lines["groups", "vision", "members", 1] == 5
    assert lines["groups", "nlp", "budgets", 0] == 8
    assert lines["groups", "nlp", "budgets", 0, "every"] == 9


def test_the_nearest_line():
    lines = {("a",): 1, ("a", "b"): 2}
    assert [at(lines, path) for path in ((), ("x",), ("a", "x"), ("a", "b", 0, "c"))] == [0, 0, 1, 2]


@pytest.mark.parametrize(
    "written", ["no", "12", "1e3", "0o17", "2026-01-01", "0.1", "010", "1:30", "yes", "<<", "=", "~"]
)
def test_texts_stay_as_they_are_written(written):
    value = None if written == "~" else written
    assert read(f"{written}: {written}")[0] == {written: value}
    assert read(f"a: '{written}'")[0] == {"a": written}


@pytest.mark.parametrize(("text", "tree"), [("", None), ("# nothing", None), ("a:", {"a": None}), ("a: ''", {"a": ""})])
def test_nothing(text, tree):
    assert read(text)[0] == tree


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: a is there already, in line 1; remove one"),
        ("a:\n  b: 1\n  b: 1", "line 3: b is there already, in line 2"),
        ("a: &x [1]\nb: *x", "line 1: an alias refers to this"),
        ("a: &x {b: 1}\nc:\n  <<: *x", "line 1: an alias refers to this"),
        ("a: &x [*x]", "line 1: an alias refers to this"),
        ("a: 1\nb: !!python/object/apply:os.system [id]", "line 2: the tag tag:yaml.org,2002:python/object/apply"),
        ("a: !!binary aGk=", "line 1: the tag"),
        ("a: !vault x", "line 1: the tag !vault is not known"),
        ("? [a]\n: 1", "line 1: a key is no text"),
        ("!x a: 1", "line 1: a key is no text"),
        ("a: [", "line 1: not YAML: "),
        ("a: 1\n\tb: 2", "line 2: not YAML: "),
        ("a: 1\n---\nb: 2", "line 2: not YAML: but found another document"),
        ("a: \x00", "not YAML: special characters"),
        ("[" * 5000, "entries are within each other"),
        ("[" * 50 + "]" * 50, "line 1: entries are within each other"),
        ("a" * (located_tree.LONGEST + 1), "has 4194305 characters"),
    ],
)
def test_what_is_refused(text, says):
    with pytest.raises(LocatedTreeError) as error:
        read(text)
    assert str(error.value).startswith(says)


def test_what_the_library_does_not_blame_on_the_text_is_not_ours():
    with pytest.raises(ZeroDivisionError):
        located_tree.read("a: 1", lambda _text: 1 / 0)


def test_the_core_needs_no_yaml():
    """The whole package, as the portal has it, with neither PyYAML nor Ansible there."""
    folder = Path(located_tree.__file__).resolve().parent
    names = ["quantities", "gpu_products", "pod_requests", "located_tree", "quota_policy", "quota_profiles"]
    code = (
        "import sys, importlib, types; sys.modules.update(ansible=None, yaml=None)\n"
        "package = types.ModuleType('gpuhub_core'); sys.modules['gpuhub_core'] = package\n"
        f"package.__path__ = [{str(folder)!r}]\n"
        f"for name in {names!r}: importlib.import_module('gpuhub_core.' + name)"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
