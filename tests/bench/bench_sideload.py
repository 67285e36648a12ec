"""Images of the first start brought to three bare hosts at once, against one host after the other."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from bench import compare
from harness import HEAD, WORKERS, Deployment


def seconds(deployment: Deployment, resolved: Path, at_once: int) -> float:
    for host in (HEAD, *WORKERS):
        deployment.on(host, "rm -rf /var/snap/microk8s")
    arguments = ("-e", f"@{resolved}", "-e", f"at_once={at_once}")
    began = time.monotonic()
    play = deployment.play(*arguments, playbook="tests/bench/playbooks/sideload.yml")
    taken = time.monotonic() - began
    assert play.code == 0 and play.changed > 0, play.output[-6000:]
    return taken


def main() -> None:
    # Bare hosts beside those of whoever runs this.
    os.environ["GPUHUB_LAB_NAME"] = f"{os.environ.get('GPUHUB_LAB_NAME') or 'lab'}-bench"
    deployment = Deployment()
    deployment.lab("up")
    try:
        with tempfile.TemporaryDirectory() as folder:
            resolved = Path(folder, "resolved.json")
            play = deployment.play("-e", f"resolved_file={resolved}", playbook="tests/bench/playbooks/resolve.yml")
            assert play.code == 0, play.output[-6000:]
            compare(
                "images of the first start to three hosts at once (s), against one after the other",
                lambda: seconds(deployment, resolved, at_once=3),
                lambda: seconds(deployment, resolved, at_once=1),
                goal=1.3,
            )
    finally:
        deployment.lab("clean")


if __name__ == "__main__":
    main()
