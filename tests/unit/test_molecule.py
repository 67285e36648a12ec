"""The scenarios of extensions/molecule: one for each role, and none that passes without a host."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SCENARIOS = REPOSITORY / "extensions/molecule"


def test_every_role_has_a_scenario():
    roles = {folder.name for folder in (REPOSITORY / "roles").iterdir()}
    assert {file.parent.name for file in SCENARIOS.glob("*/molecule.yml")} - {"default"} == roles
    for role in roles:
        for playbook in ("converge.yml", "verify.yml"):
            assert (SCENARIOS / role / playbook).exists(), f"{role} has no {playbook}"


def test_fails_where_the_inventory_has_no_host(tmp_path):
    (tmp_path / "hosts.yml").write_text("all: {children: {head: {}, workers: {}}}\n")
    done = subprocess.run(
        ["molecule", "verify", "-s", "calico"],
        cwd=REPOSITORY,
        env={**os.environ, "GPUHUB_INVENTORY": str(tmp_path), "NO_COLOR": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0, "verify passed without a host"
    assert "No host would be tested" in done.stdout + done.stderr
