"""The OpenAPI says exactly what is accepted and answered: schemathesis sends what it allows, and what it forbids."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sample
from portals import ADMIN_TOKEN
from prometheus_client.parser import text_string_to_metric_families

# Per operation and phase; `make soak` looks longer, and sends 100,000 requests in all.
EXAMPLES, SEEDS = sample.size((8, (1,)), (900, (1, 2, 3)))
# For each operation.
LEAST_REQUESTS = sample.size(22, 695)
# Those of a resource need each other: what one makes another finds.
RESOURCES = sample.size(5, None)
# What is refused before it gets anywhere shows little: of each operation so much must be answered with 2xx. Of few
# requests the share is chance.
LEAST_GOOD = sample.size(0.01, 0.1)
# People's login leads to the hub's, and does not know tokens; test_hub_login has it.
LOGIN = {"GET /api/v1/auth/login", "GET /api/v1/auth/callback", "POST /api/v1/auth/logout"}


def counted(admin) -> Iterator[tuple[str, str, int]]:
    """Operations, statuses and how many requests were answered with them, as the portal counts."""
    for family in text_string_to_metric_families(admin.get("/metrics").text):
        for one in family.samples if family.name == "usage_portal_requests" else ():
            if one.name.endswith("_total"):
                labels = one.labels
                yield f"{labels['method']} {labels['route']}", labels["status"], int(one.value)


@pytest.mark.parametrize("seed", SEEDS)
def test_schemathesis_finds_nothing(portal, ledger, admin, tmp_path, seed):
    ledger.node("n0", 8)
    first = {"rates": [{"from": "2026-01-01T00:00:00Z", "currency": "EUR"}]}
    assert admin.put("/api/v1/policy/rates", json=first).status_code == 200
    program = Path(sys.executable).with_name("st")
    assert program.exists() or shutil.which("st"), "pip install schemathesis"
    command = [str(program) if program.exists() else "st", "run", f"{portal.url}/openapi.json"]
    command += ["--header", f"Authorization: Bearer {ADMIN_TOKEN}", "--seed", str(seed), "--continue-on-failure"]
    command += ["--max-examples", str(EXAMPLES), "--request-timeout", "30"]
    described = operations(admin)
    asked = drawn(described.keys() - LOGIN)
    # It refuses to look for operations that lead to others where none of those asked does.
    leads_on = any("links" in answer for name in asked for answer in described[name]["responses"].values())
    command += ["--phases", "examples,coverage,fuzzing" + (",stateful" if leads_on else "")]
    command += [word for operation in asked for word in ("--include-name", operation)]
    before = Counter({operation[:2]: operation[2] for operation in counted(admin)})
    hooks = {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(Path(__file__).parent)}
    hooks |= {"PORTAL_URL": portal.url, "PORTAL_TOKEN": ADMIN_TOKEN}
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | hooks, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert int(re.search(r"Tested: (\d+)", done.stdout)[1]) == len(asked)
    answers = Counter({operation[:2]: operation[2] for operation in counted(admin)}) - before
    assert not [status for _, status in answers if int(status) >= 500]
    assert answers.total() >= LEAST_REQUESTS * len(asked)
    shares = {operation: share_of_good(operation, answers) for operation in asked}
    least = min(shares.items(), key=lambda share: share[1])
    print(f"{answers.total()} requests to {len(shares)} operations; least answers of 2xx: {least[0]} {least[1]:.2f}")
    assert {operation: share for operation, share in shares.items() if share < LEAST_GOOD} == {}


def drawn(names: set[str]) -> list[str]:
    """The operations of some resources."""
    resources = sorted({resource(name) for name in names})
    chosen = sample.draw(resources, RESOURCES)
    return sorted(name for name in names if resource(name) in chosen)


def resource(operation: str) -> str:
    """What comes first in an operation's path."""
    return re.split("[/.]", operation.split()[1].removeprefix("/api/v1"))[1]


def operations(admin) -> dict[str, dict]:
    """Those that the OpenAPI describes, by method and path."""
    paths = admin.get("/openapi.json").json()["paths"]
    return {f"{method.upper()} {path}": operation for path, item in paths.items() for method, operation in item.items()}


def share_of_good(operation: str, answers: Counter) -> float:
    """How much of what an operation was asked was answered with 2xx."""
    method, path = operation.split()
    # The counter has one name for paths of existing clients and for the same below the version.
    name = f"{method} {path.removeprefix('/api/v1')}"
    found = {status: number for (of, status), number in answers.items() if of == name}
    return sum(number for status, number in found.items() if status.startswith("2")) / sum(found.values())


def test_it_has_the_operations_of_existing_clients(admin):
    document = admin.get("/openapi.json").json()
    assert {
        "GET /sessions",
        "GET /sessions/{session_id}",
        "POST /sessions",
        "PUT /sessions/{session_id}/end",
        "GET /users/{username}/limits",
    } <= operations(admin).keys()
    limits = document["components"]["schemas"]["UserLimits"]
    assert list(limits["properties"]) == ["cpu_limit_cores", "memory_limit_gib", "gpu_limit", "usage"]
    assert sorted(limits["required"]) == sorted(limits["properties"])
    errors = {
        content
        for item in document["paths"].values()
        for operation in item.values()
        for status, answer in operation["responses"].items()
        if int(status) >= 400
        for content in answer["content"]
    }
    assert errors == {"application/problem+json"}
