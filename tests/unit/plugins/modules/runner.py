"""Runs a module of the collection in a process of its own, the way Ansible does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

COLLECTIONS = Path(__file__).resolve().parents[4] / "collections"
_RUN = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
runpy.run_module("ansible_collections.gpuhub.platform.plugins.modules." + sys.argv.pop(1), run_name="__main__")
"""


def run(module: str, check: bool = False, **arguments: Any) -> dict[str, Any]:
    """Result of a module; "failed" is in it if it failed. A traceback is an error of the test."""
    settings = {"_ansible_check_mode": check, "_ansible_diff": True, **arguments}
    text = json.dumps({"ANSIBLE_MODULE_ARGS": json.loads(json.dumps(settings, default=str))})
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(COLLECTIONS), module],
        input=text, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout)
