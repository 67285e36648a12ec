"""How many modules a run of site.yml that changes nothing executes on the busiest host, against how many it may.

With --list it prints what they are instead, by host.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from bench import report
from harness import REPOSITORY, Deployment

MOST = 25


def executions() -> list[dict[str, Any]]:
    """Every module execution over the network of one run that changes nothing."""
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder, "executions")
        play = Deployment().play(
            ANSIBLE_CALLBACK_PLUGINS=str(REPOSITORY / "tests/bench/callback"),
            ANSIBLE_CALLBACKS_ENABLED="module_executions",
            MODULE_EXECUTIONS=str(notes),
        )
        assert play.code == 0 and play.changed == 0, play.output[-6000:]
        lines = [json.loads(line) for line in notes.read_text().splitlines()]
    return [line for line in lines if line["connection"] != "local"]


def main() -> None:
    found = executions()
    if "--list" in sys.argv:
        for host in sorted({line["host"] for line in found}):
            own = [line for line in found if line["host"] == host]
            print(f"{host}: {len(own)} executions, {sum(line['seconds'] for line in own):.1f} s")
            for line in own:
                print(f"  {line['seconds']:6.2f} s  {line['module']:45} {line['role']}: {line['task']}")
        return
    busiest = max(Counter(line["host"] for line in found).values())
    report("modules executed on one host by a second run of site.yml, against the most allowed", busiest, MOST, goal=1)


if __name__ == "__main__":
    main()
