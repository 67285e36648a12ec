#!/usr/bin/env python3
"""docs/troubleshooting.md has a row for every message that the collection can end with, and for no other.

The table of preflight's checks is that of the code; `--write` makes it so. All other tables between `<!-- messages -->`
and `<!-- /messages -->` are written by people. The first cell of a row has beginnings of messages in backticks, with
`…` for what differs from case to case; what a message begins with itself, such as a file's name, is left out. Every
message needs such a row, and every beginning a message.

What counts as a message:

- in plugins and in the hub: what some Error is made with, also by the class's own `super().__init__`;
  `fail_json(msg=...)`; what is given to or assigned to a `text` or `problem`, or to an element of `missing`; and,
  except in modules, where those are reasons of changes, what functions return whose description begins with "Why" or
  "Return why";
- in roles and playbooks: `fail_msg` of assert and `msg` of fail, and of a variable that is all of it the parts of its
  expression behind `or`.

Not found are texts that come from tables or are put together piece by piece, warnings, and the words of other programs;
nor is a message that has hardly any words of its own and passes on another one.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jinja2
import jinja2.nodes
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "troubleshooting.md"
BEGIN, END = "<!-- checks -->\n", "<!-- /checks -->"
MESSAGES = re.compile(r"<!-- messages -->(.*?)<!-- /messages -->", re.DOTALL)

WHY = re.compile(r"(Return why|Why) ")
GAP = "…"
# Letters that a message has of its own, or else it only passes on another one.
LEAST = 6
PARAMETERS = ("text", "problem")
# Never seen by anybody: each is caught where it is raised.
CAUGHT = ("AssertionError", "ReadError")


def table() -> str:
    """The table, from the file by itself: it needs neither Ansible nor the rest of the collection."""
    source = REPOSITORY / "plugins" / "module_utils" / "preflight_findings.py"
    spec = importlib.util.spec_from_file_location("preflight_findings", source)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.markdown()


# ---- messages of the code


def normal(text: str) -> str:
    """A message as it is compared: one line, without backticks and without the gap that it begins with."""
    line = re.sub(rf"(?:{GAP}\s*)+{GAP}", GAP, " ".join(text.replace("`", "").split()))
    return re.sub(rf"\A[{GAP}\s:;.,='(]+", "", line)


def has_words(text: str) -> bool:
    """Whether a message says something itself."""
    return sum(letter.isalpha() for letter in text) >= LEAST


class PythonMessages:
    """The messages of one Python file; `explains` says whether functions that say why something is wrong count."""

    def __init__(self, source: str, explains: bool = True) -> None:
        self._explains = explains
        self._tree = ast.parse(source)
        self._constants: dict[str, str] = {}
        self._takers: dict[str, int] = {}
        for node in self._tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self._constants[node.targets[0].id] = self._text(node.value)
        for node in ast.walk(self._tree):
            if isinstance(node, ast.FunctionDef):
                names = [argument.arg for argument in node.args.args if argument.arg != "self"]
            elif isinstance(node, ast.ClassDef):
                names = [item.target.id for item in node.body if isinstance(item, ast.AnnAssign)]
            else:
                continue
            for position, name in enumerate(names):
                if name in PARAMETERS:
                    self._takers[node.name] = position

    def __iter__(self) -> Iterator[str]:
        for node in ast.walk(self._tree):
            for part in self._parts(node):
                for text in self._alternatives(part):
                    yield normal(text)

    def _parts(self, node: ast.AST) -> Iterator[ast.expr | list[ast.expr]]:
        """The expressions in a node that are messages; a list is one that is joined by colons."""
        if isinstance(node, ast.Call):
            name = _name(node.func)
            if name.endswith(("Error", "Fail")) and name not in CAUGHT:
                yield node.args
            elif name == "fail_json":
                yield from (keyword.value for keyword in node.keywords if keyword.arg == "msg")
            elif name in self._takers:
                yield from node.args[self._takers[name] :][:1]
        elif isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            several = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            pairs = zip(target.elts, value.elts, strict=True) if several else [(target, value)]
            yield from (value for target, value in pairs if _name(target) in (*PARAMETERS, "missing[]"))
        elif isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
            calls = (inner for inner in ast.walk(node) if isinstance(inner, ast.Call))
            yield from (part for call in calls if _name(call.func) == "__init__" for part in call.args)
        elif isinstance(node, ast.FunctionDef) and self._explains and WHY.match(ast.get_docstring(node) or ""):
            yield from (inner.value for inner in ast.walk(node) if isinstance(inner, ast.Return) and inner.value)

    def _alternatives(self, part: ast.expr | list[ast.expr]) -> Iterator[str]:
        if isinstance(part, ast.IfExp):
            yield from self._alternatives(part.body)
            yield from self._alternatives(part.orelse)
        elif isinstance(part, list):
            yield ": ".join(map(self._text, part))
        else:
            yield self._text(part)

    def _text(self, node: ast.expr) -> str:
        """A text with gaps where it is not constant."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        if isinstance(node, ast.JoinedStr):
            return "".join(map(self._text, node.values))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self._text(node.left) + self._text(node.right)
        if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name):
            return self._constants.get(node.value.id, GAP)
        if isinstance(node, ast.Name):
            return self._constants.get(node.id, GAP)
        if isinstance(node, ast.Call) and _name(node.func) == "join" and isinstance(node.args[0], ast.List):
            return self._text(node.func.value).join(map(self._text, node.args[0].elts))
        return GAP


def _name(node: ast.expr) -> str:
    """What is called or assigned to, without what it belongs to; an element is `name[]`."""
    if isinstance(node, ast.Subscript):
        return f"{_name(node.value)}[]"
    return getattr(node, "attr", getattr(node, "id", ""))


def yaml_messages(document: Any, variables: dict[str, Any]) -> Iterator[str]:
    """The messages of tasks; `variables` are those of their role."""
    if isinstance(document, list):
        for item in document:
            yield from yaml_messages(item, variables)
    elif isinstance(document, dict):
        for key, value in document.items():
            if key in ("ansible.builtin.assert", "ansible.builtin.fail"):
                text = str(value.get("fail_msg", value.get("msg", "")))
                whole = re.fullmatch(r"{{\s*(\w+)\s*}}", text)
                found = _alternatives(str(variables[whole[1]])) if whole else [re.sub(r"{{.*?}}", GAP, text)]
                yield from map(normal, found)
            else:
                yield from yaml_messages(value, variables)


def _alternatives(template: str) -> Iterator[str]:
    """The texts behind `or` in a template."""
    for node in jinja2.Environment().parse(template).find_all(jinja2.nodes.Or):
        parts = node.right.nodes if isinstance(node.right, jinja2.nodes.Concat) else [node.right]
        yield "".join(part.value if isinstance(part, jinja2.nodes.Const) else GAP for part in parts)


def messages() -> Iterator[tuple[str, str]]:
    """Every message of the collection that has words of its own, with its file."""
    for path in sorted([*REPOSITORY.glob("plugins/*/*.py"), *REPOSITORY.glob("services/hub/**/*.py")]):
        if not path.match("module_utils/preflight_*"):  # those have a table of their own
            found = PythonMessages(path.read_text(encoding="utf-8"), explains=path.parent.name != "modules")
            yield from ((path.name, text) for text in found)
    for path in sorted([*REPOSITORY.glob("roles/*/tasks/*.yml"), *REPOSITORY.glob("playbooks/*.yml")]):
        own = path.parents[1] / "vars" / "main.yml"
        variables = yaml.safe_load(own.read_text(encoding="utf-8")) if own.exists() else {}
        found = yaml_messages(yaml.safe_load(path.read_text(encoding="utf-8")), variables)
        yield from ((str(path.relative_to(REPOSITORY)), text) for text in found)


# ---- rows of the page


def beginnings(page: str) -> list[str]:
    """What the rows of a page's tables of messages have in backticks in their first cell."""
    rows = [line for part in MESSAGES.findall(page) for line in part.splitlines() if line.startswith("| ")]
    return [words for row in rows for words in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


def covers(beginning: str, message: str) -> bool:
    """Whether a message begins like this."""
    return _pattern(beginning).match(message) is not None


@functools.cache
def _pattern(beginning: str) -> re.Pattern[str]:
    return re.compile(".*?".join(map(re.escape, normal(beginning).split(GAP))))


def differences(found: Iterable[tuple[str, str]], page: str) -> list[str]:
    """Messages without a row and rows without a message, as lines to print."""
    known = [(file, text) for file, text in found if has_words(text)]
    rows = beginnings(page)
    lines = [f"no row for: {text} ({file})" for file, text in known if not any(covers(row, text) for row in rows)]
    lines += [f"too few words: {row}" for row in rows if not has_words(row)]
    lines += [f"no message begins with: {row}" for row in rows if not any(covers(row, text) for _file, text in known)]
    return list(dict.fromkeys(lines))


def main(arguments: list[str]) -> int:
    """Compare or write; 1 if the page differs."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        print(f"{PAGE.name}: no table between {BEGIN.strip()} and {END}")
        return 1
    wanted = before + BEGIN + table() + END + after
    if arguments == ["--write"]:
        PAGE.write_text(wanted, encoding="utf-8")
    elif text != wanted:
        print(f"docs/{PAGE.name} is not the table of the code: run tests/lint/troubleshooting.py --write")
        return 1
    lines = differences(messages(), wanted)
    for line in lines:
        print(f"docs/{PAGE.name}: {line}")
    if lines:
        return 1
    print("docs/troubleshooting.md holds every check of preflight and every message")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
