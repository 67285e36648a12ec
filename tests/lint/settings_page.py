#!/usr/bin/env python3
"""The tables of docs/settings.md say what the argument specifications and the table of jhub.env say.

With --write the tables are made anew.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from plugins.module_utils import jhub_env

PAGE = REPOSITORY / "docs" / "settings.md"
MARK = "<!-- What follows is made by: tests/lint/settings_page.py --write -->\n"
CATALOGUE = yaml.safe_load((REPOSITORY / "vars" / "catalogue.yml").read_text())

_MARKUP = re.compile(r"\b(?:RV|[BCEIMOPV])\(((?:[^()\\]|\\.)*)\)")
_CATALOGUED = re.compile(r"\{\{ lookup\('gpuhub\.platform\.catalogue', '([\w.]+)'\) \}\}")


def markdown(text: str | list[str]) -> str:
    """A description with Ansible's markup, as a cell of a table."""
    joined = text if isinstance(text, str) else " ".join(text)
    return _MARKUP.sub(lambda match: f"`{match[1].partition('#')[0]}`", joined).replace("|", "\\|").strip()


def default(option: Mapping[str, Any]) -> str:
    """A default as a cell: what the catalogue has for it, or that it is computed."""
    if option.get("required"):
        return "**required**"
    value = option.get("default")
    if isinstance(value, str) and (catalogued := _CATALOGUED.fullmatch(value)):
        value = CATALOGUE
        for key in catalogued[1].split("."):
            value = value[key]
    if "{{" in str(value):
        return "*computed*"
    return "" if value is None else f"`{json.dumps(value, ensure_ascii=False) if value == '' else plain(value)}`"


def plain(value: Any) -> str:
    """A value in YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")


def table(options: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Variables of a role as a table."""
    lines = ["| variable | type | default | |", "|---|---|---|---|"]
    for name, option in options.items():
        kind = option.get("type", "str")
        if option.get("elements"):
            kind = f"list of {option['elements']}"
        if option.get("choices"):
            kind = ", ".join(f"`{choice}`" for choice in option["choices"])
        lines.append(f"| `{name}` | {kind} | {default(option)} | {markdown(option['description'])} |")
    return lines


def environment() -> list[str]:
    """The names of jhub.env as a table."""
    lines = ["| name | | here |", "|---|---|---|"]
    for name, entry in jhub_env.NAMES.items():
        lines.append(f"| `{name}` | {markdown(entry.about)} | {markdown(jhub_env.meaning(name))} |")
    return lines


def generated() -> str:
    """Everything below the mark."""
    shared = yaml.safe_load((REPOSITORY / "vars" / "settings.yml").read_text())
    lines = [
        "",
        "## Names of jhub.env",
        "",
        *environment(),
        "",
        "## Variables of all roles",
        "",
        *table(shared["shared"]),
    ]
    for path in sorted(REPOSITORY.glob("roles/*/meta/argument_specs.yml")):
        entries = yaml.safe_load(path.read_text())["argument_specs"]
        options = {name: option for entry in entries.values() for name, option in entry.get("options", {}).items()}
        if options:
            lines += ["", f"## {path.parts[-3]}", "", f"{markdown(entries['main']['short_description'])}.", ""]
            lines += table(options)
    if shared["removed"]:
        lines += ["", "## Removed", "", "| variable | |", "|---|---|"]
        lines += [f"| `{name}` | {markdown(cure)} |" for name, cure in shared["removed"].items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Compare or write; 1 if the page does not say what the code says."""
    text = PAGE.read_text()
    wanted = text[: text.index(MARK) + len(MARK)] + generated()
    if "--write" in sys.argv[1:]:
        PAGE.write_text(wanted)
    elif text != wanted:
        print("docs/settings.md is not what the argument specifications say: tests/lint/settings_page.py --write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
