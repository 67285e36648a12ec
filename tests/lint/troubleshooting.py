#!/usr/bin/env python3
"""The table of checks in docs/troubleshooting.md is that of the code; `--write` makes it so."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "troubleshooting.md"
BEGIN, END = "<!-- checks -->\n", "<!-- /checks -->"


def table() -> str:
    """The table, from the file by itself: it needs neither Ansible nor the rest of the collection."""
    source = REPOSITORY / "plugins" / "module_utils" / "preflight_findings.py"
    spec = importlib.util.spec_from_file_location("preflight_findings", source)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.markdown()


def main(arguments: list[str]) -> int:
    """Compare or write; 1 if the page differs."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        print(f"{PAGE.name}: no table between {BEGIN.strip()} and {END}")
        return 1
    wanted = before + BEGIN + table() + END + after
    if arguments == ["--write"]:
        PAGE.write_text(wanted)
    elif text != wanted:
        print(f"docs/{PAGE.name} is not the table of the code: run tests/lint/troubleshooting.py --write")
        return 1
    print("docs/troubleshooting.md holds every check of preflight")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
