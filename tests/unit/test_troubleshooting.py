"""The comparison of docs/troubleshooting.md with the messages of the code finds what it shall find."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lint() -> ModuleType:
    spec = importlib.util.spec_from_file_location("troubleshooting", REPOSITORY / "tests/lint/troubleshooting.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(*rows: str) -> str:
    """A page with one table, whose rows have these first cells."""
    table = "\n".join(f"| {row} | meaning with `words in code` | cure |" for row in rows)
    return f"| `outside of tables` | |\n<!-- messages -->\n| message | | |\n|---|---|---|\n{table}\n<!-- /messages -->"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('raise ThingError(f"{path}: is not to be had; buy {one}")', "is not to be had; buy …"),
        ('raise ThingError(path, "is not to be had")', "is not to be had"),
        ('wrong = ValueError("is not to be had")', "is not to be had"),
        ('WHAT = "to be had"\nraise ThingError(f"is not {WHAT}")', "is not to be had"),
        ('raise ThingError("is not " + what + " to be had")', "is not … to be had"),
        ('raise ThingError("\\n".join(["is not to be had", *lines]))', "is not to be had …"),
        ('module.fail_json(msg=f"{name} is not" " to be had", rc=1)', "is not to be had"),
        ('class ThingError(Exception):\n  def __init__(self):\n    super().__init__("not to be had")', "not to be had"),
        ('def note(line, text): ...\nnote(3, "is not to be had")', "is not to be had"),
        ('class Note(NamedTuple):\n  line: int\n  text: str\nNote(3, "is not to be had")', "is not to be had"),
        ('text = "is not to be had" if gone else "is not to be seen"', "is not to be seen"),
        ('missing[name] = f"{name} is not to be had"', "is not to be had"),
        ('kind, text = "missing", f"{name} is not to be had"', "is not to be had"),
        ('def judge(x):\n  """Why x is wrong."""\n  return "is not to be had"', "is not to be had"),
    ],
)
def test_messages_of_python(lint, source, message):
    assert message in set(lint.PythonMessages(source))


@pytest.mark.parametrize(
    "source",
    [
        'raise AssertionError("is not to be had")',
        'log.info("is not to be had")',
        'def judge(x):\n  """What x is."""\n  return "is not to be had"',
    ],
)
def test_what_is_no_message_of_python(lint, source):
    assert "is not to be had" not in set(lint.PythonMessages(source))


def test_messages_of_tasks(lint):
    tasks = yaml.safe_load("""
        - ansible.builtin.assert: {that: a, fail_msg: "role_size is {{ role_size }}; give more"}
        - block:
            - ansible.builtin.fail: {msg: "{{ host }} is not to be had"}
        - ansible.builtin.assert: {that: b, fail_msg: "{{ __role_problems }}"}
        - ansible.builtin.debug: {msg: all is well}
        """)
    variables = {"__role_problems": "{{ [a == 'x' or 'give an x', b or name ~ ' gives none'] | reject('true') }}"}
    assert set(lint.yaml_messages(tasks, variables)) == {
        "role_size is …; give more", "is not to be had", "give an x", "gives none",
    }  # fmt: skip


def test_a_row_for_each_message_and_a_message_for_each_row(lint):
    found = [("a.py", "is not to be had; buy …"), ("b.py", "size is …; give more"), ("c.py", "…: …")]
    assert lint.differences(found, page("`is not to be had` `size is …; give`")) == []


def test_a_message_without_a_row_is_found(lint):
    found = [("a.py", "is not to be had"), ("b.py", "size is …; give more")]
    assert lint.differences(found, page("`is not to be had`")) == ["no row for: size is …; give more (b.py)"]
    # In the middle of a message nobody looks for its beginning.
    assert "no row for: size is …; give more (b.py)" in lint.differences(found[1:], page("`give more`"))


def test_a_row_without_a_message_is_found(lint):
    found = [("a.py", "is not to be had")]
    rows = page("`is not to be had` `is not to be seen`", "`to`")
    assert lint.differences(found, rows) == ["too few words: to", "no message begins with: is not to be seen",
                                             "no message begins with: to"]  # fmt: skip


def test_the_page_loses_a_row(lint):
    """The real page, as it would be after somebody removed a row or reworded a message."""
    text = lint.PAGE.read_text(encoding="utf-8")
    found = list(lint.messages())
    assert lint.differences(found, text) == []
    row = next(line for line in text.splitlines() if "there is no bundle here" in line)
    assert any("there is no bundle here" in line for line in lint.differences(found, text.replace(row, "")))
    reworded = [(file, message.replace("there is no bundle here", "no bundle was found")) for file, message in found]
    assert any("no bundle was found" in line for line in lint.differences(reworded, text))
    assert "no message begins with: there is no bundle here (no …)" in lint.differences(reworded, text)
