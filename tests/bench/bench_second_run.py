"""A run of site.yml that changes nothing, against the same play with Ansible's default settings."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from bench import compare
from harness import REPOSITORY, Deployment

# Starting a notebook to prove the hub is no part of changing nothing; both sides leave it out.
WITHOUT_PROOF = ("-e", "jupyterhub_smoke_test=never")


def seconds(deployment: Deployment, **environment: str) -> float:
    began = time.monotonic()
    play = deployment.play(*WITHOUT_PROOF, **environment)
    taken = time.monotonic() - began
    assert play.code == 0 and play.changed == 0, play.output[-6000:]
    return taken


def main() -> None:
    deployment = Deployment()
    with tempfile.TemporaryDirectory() as folder:
        defaults = Path(folder, "ansible.cfg")
        defaults.write_text(f"[defaults]\ncollections_path = {REPOSITORY}/collections\n")
        compare(
            "second run of site.yml (s), against Ansible's default settings",
            lambda: seconds(deployment),
            lambda: seconds(deployment, ANSIBLE_CONFIG=str(defaults)),
            goal=3,
        )


if __name__ == "__main__":
    main()
