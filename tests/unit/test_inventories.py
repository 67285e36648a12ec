"""The inventories that people copy mean the same wherever a playbook is started."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import sample

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("start", "source"),
    sample.draw(list(itertools.product(["site", "elsewhere"], ["my_inventory", "my_inventory/hosts.yml"])), 1),
)
def test_the_bundle_of_an_air_gap_is_beside_its_inventory(tmp_path, start, source):
    site = tmp_path / "site"
    shutil.copytree(REPOSITORY / "inventories/airgap", site / "my_inventory")
    (tmp_path / "elsewhere").mkdir()
    shown = subprocess.run(
        ["ansible", "-i", site / source, "hub1", "-m", "ansible.builtin.debug", "-a", "var=offline_images_bundle"],
        cwd=tmp_path / start, env={**os.environ, "ANSIBLE_NOCOLOR": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert f'"offline_images_bundle": "{site}/files/offline-images"' in shown.stdout, shown.stdout + shown.stderr
