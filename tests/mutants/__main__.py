"""python tests/mutants [NAME ...]: which changes to the code of ledger and collector do their tests not notice?

mutmut changes one thing at a time in a copy of the code, and runs the unit tests that get there. Mutants that survive
are put into the simulator's collector, too. Prints those that survive both, and fails if fewer than 90 % are killed.
NAME, with wildcards, chooses mutants (gpuhub_portal.ledger.facts*), GPUHUB_MUTANTS_SAMPLE draws so many of all (by
GPUHUB_SEED). `mutmut show NAME` in tests/output/mutants shows one.

Needs PYTHONPATH=tests. GPUHUB_MUTANTS_PROCESSES run at once (2).
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

from mutmut.stats import status_by_exit_code
from postgres import Cluster

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "tests" / "output" / "mutants"
PROCESSES = int(os.environ.get("GPUHUB_MUTANTS_PROCESSES", "2"))
SAMPLE = int(os.environ.get("GPUHUB_MUTANTS_SAMPLE") or 0)
GOAL = 0.9
ALIVE = ("survived", "no tests", "suspicious", "not checked")
UNIT = "tests/unit/services/usage_portal"
HISTORIES = "tests/simulator/test_histories.py::test_held_and_idle_are_the_truth"
# From these seeds on, each of the simulator's own planted faults is found.
HISTORY = {"GPUHUB_SEED": "1", "GPUHUB_HISTORIES": "6"}
SECONDS = 300
# Some mutants never stop collecting things; each process is told so by MemoryError before the machine is full.
MEMORY = 3 << 30
_CONFIGURATION = f"""
[mutmut]
source_paths = src
only_mutate =
    src/gpuhub_portal/ledger/*
    src/gpuhub_portal/collector/*
# Wiring, which only a cluster tests.
do_not_mutate = *__main__.py
# What is logged is no behaviour.
do_not_mutate_patterns = _LOG\\.
also_copy =
    pytest.ini
    plugins
pytest_add_cli_args =
    -p
    shared_cluster
pytest_add_cli_args_test_selection =
    {UNIT}/ledger
    {UNIT}/collector
    tests/simulator/test_process.py
"""
# Has tests; mutmut makes all mutants before it tests those that are named.
FEW = "gpuhub_portal.ledger.rollups.x_new_sums*"


def lay_out() -> None:
    """The code and its tests as mutmut wants them: packages in src."""
    # mutmut does not notice all that has changed since an earlier run.
    shutil.rmtree(FOLDER, ignore_errors=True)
    _copy(REPOSITORY / "services/usage_portal/gpuhub_portal", FOLDER / "src/gpuhub_portal")
    _copy(REPOSITORY / "plugins/module_utils", FOLDER / "plugins/module_utils")
    for name in ("unit/services/usage_portal/ledger", "unit/services/usage_portal/collector", "simulator"):
        _copy(REPOSITORY / "tests" / name, FOLDER / "tests" / name)
    for name in ("postgres.py", "sample.py", "service_imports.py", "mutants/shared_cluster.py"):
        shutil.copy2(REPOSITORY / "tests" / name, FOLDER / "tests")
    shutil.copy2(REPOSITORY / "pytest.ini", FOLDER)
    (FOLDER / "setup.cfg").write_text(_CONFIGURATION)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))


def results() -> dict[str, str]:
    """What became of each mutant, as mutmut has noted it."""
    found = {}
    for path in (FOLDER / "mutants/src").rglob("*.meta"):
        codes = json.loads(path.read_text())["exit_code_by_key"]
        found.update({name: status_by_exit_code[code] for name, code in codes.items()})
    return found


def survives_histories(name: str, environment: dict[str, str]) -> bool:
    """Whether the simulator finds the books right with a mutant."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "shared_cluster", HISTORIES]
    mutants = FOLDER / "mutants"
    path = os.pathsep.join([str(mutants / "src"), environment["PYTHONPATH"]])
    variables = {**environment, **HISTORY, "PYTHONPATH": path, "MUTANT_UNDER_TEST": name}
    try:
        played = subprocess.run(command, cwd=mutants, env=variables, stdout=subprocess.DEVNULL, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return played.returncode == 0


def draw(names: list[str]) -> list[str]:
    """A sample of all mutants."""
    seed = int(os.environ.get("GPUHUB_SEED") or random.randrange(10**6))
    print(f"GPUHUB_SEED={seed}", flush=True)
    return random.Random(seed).sample(sorted(names), min(SAMPLE, len(names)))


def main(names: list[str]) -> int:
    # A run that is ended takes its PostgreSQL with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    lay_out()
    with Cluster() as cluster, ThreadPoolExecutor(PROCESSES) as threads:
        environment = {
            **os.environ,
            # Where the plugin is; mutmut itself adds the code, which is not there yet.
            "PYTHONPATH": str(FOLDER / "tests"),
            # All of their cases: what is drawn may not be what notices a mutant.
            "GPUHUB_SOAK": "1",
            "GPUHUB_CLUSTER": cluster.dsn().split()[0].removeprefix("host="),
        }
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(PROCESSES)]
        if SAMPLE:
            subprocess.run([*command, FEW], cwd=FOLDER, env=environment, check=True)
            names = draw(list(results()))
        subprocess.run([*command, *names], cwd=FOLDER, env=environment, check=True)
        chosen = [name for name in results() if any(fnmatch(name, pattern) for pattern in names or ["*"])]
        found = {name: status for name, status in results().items() if name in chosen}
        left = sorted(name for name, status in found.items() if status in ALIVE)
        assert survives_histories("", environment), "the simulator fails without a mutant"
        try:
            lived = list(threads.map(lambda name: survives_histories(name, environment), left))
        finally:
            threads.shutdown(cancel_futures=True)
    found.update({name: "killed by a history" for name, alive in zip(left, lived, strict=True) if not alive})
    survivors = sorted(name for name, status in found.items() if status in ALIVE)
    killed = 1 - len(survivors) / len(found)
    for name in survivors:
        print(f"{found[name]}: {name}")
    print(dict(Counter(found.values())))
    print(f"{len(found)} of {len(results())} mutants, {killed:.1%} killed, goal {GOAL:.0%}")
    return 0 if killed >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
