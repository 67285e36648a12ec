"""Each area of `make test` has a budget in docs/testing.md, and what is over it is said."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BUDGET = runpy.run_path(str(REPOSITORY / "tests" / "budget"))
PAGE = (REPOSITORY / "docs" / "testing.md").read_text()


def test_each_target_that_is_timed_has_a_budget():
    rules = re.findall(r"^([\w$()-]+):(?:(?!\n\S).)*?\$\(ENDS\)", (REPOSITORY / "Makefile").read_text(), re.M | re.S)
    parts = {f"e2e-{path.name[5]}" for path in (REPOSITORY / "tests" / "e2e").glob("test_[2-9]_*.py")}
    # The cuts of make test are in the first part.
    parts -= {"e2e-4"}
    assert {area.target for area in BUDGET["areas"](PAGE)} == {*rules} - {"$(PARTS)"} | parts


@pytest.mark.parametrize(
    ("took", "line"), [(None, "60       -"), (60, "60      60"), (61, "60      61  over by 1 s")], ids=str
)
def test_what_is_over_is_said(took, line):
    assert BUDGET["Area"]("an area", "a", 1.0, took).line().endswith(line)
