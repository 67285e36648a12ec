"""The modules of preflight and the control node's part, as Ansible runs them."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
from ansible_collections.gpuhub.platform.plugins.action.preflight import ActionModule

from .runner import run

NEEDS = {
    "min_cpus": 1,
    "min_memory_gib": 0.1,
    "min_disk_gb": 0.1,
    "min_free_disk_gb": 1000000,
    "min_kernel": "3.0",
    "min_driver": "535",
    "microk8s_oldest": "1.30",
}
GROUPS = {"head": ["head"], "workers": ["gpu1"]}


@pytest.fixture(scope="module")
def looked():
    """What the module says of this machine."""
    return run("preflight", ports=[{"number": 1, "purpose": "nothing"}], **NEEDS)


def test_this_machine(looked):
    assert not looked.get("failed")
    assert not looked["changed"]
    findings = {found["name"]: found for found in looked["findings"]}
    assert "preflight_min_free_disk_gb" in findings["disk-free"]["needed"]
    assert looked["facts"]["cpus"] > 0


def test_check_mode_tries_nothing(tmp_path):
    before = tmp_path.stat().st_mtime_ns
    looked = run("preflight", check=True, shared_path=tmp_path, **NEEDS)
    assert looked["facts"]["shared"]["there"]
    assert tmp_path.stat().st_mtime_ns == before


def report(results, **arguments):
    return run("preflight_report", results=results, groups=GROUPS, **arguments)


def test_one_report(looked, tmp_path):
    gone = {"unreachable": True, "msg": "Task failed: Connection refused"}
    told = report({"head": looked, "gpu1": gone}, path=tmp_path / "report.json")
    assert not told["fit"]
    assert not told["changed"]
    assert "Connection refused" in told["table"]
    assert "Task failed" not in told["table"]
    document = json.loads((tmp_path / "report.json").read_text())
    assert {(one["host"], one["name"]) for one in document["findings"]} >= {
        ("gpu1", "unreachable"),
        ("head", "disk-free"),
    }
    assert document["hosts"]["gpu1"] is None


def test_what_is_accepted(looked):
    errors = {found["name"] for found in looked["findings"] if found["severity"] == "error"}
    assert errors
    assert report({"head": looked}, accept=sorted(errors), tls=True)["fit"]
    refused = report({"head": looked}, accept=["disk-fre"])
    assert not refused["fit"]
    assert "disk-fre" in refused["table"]


def test_a_host_that_could_not_be_looked_at():
    told = report({"head": {"msg": "MODULE FAILURE", "module_stderr": "python3: not found"}})
    assert "unreadable" in told["table"]
    assert "python3:" in told["table"]


def test_an_inventory_without_hosts():
    told = run("preflight_report", results={}, groups={"all": [], "ungrouped": []})
    assert not told["fit"]
    assert "inventory-head" in told["table"]


def test_a_report_that_cannot_be_written(looked, tmp_path):
    told = report({"head": looked}, path=tmp_path / "no" / "report.json")
    assert told["failed"]
    assert str(tmp_path / "no" / "report.json") in told["msg"]


@pytest.mark.parametrize("ahead", [0, 100])
def test_a_clock_is_known_within_the_time_that_it_took(monkeypatch, ahead):
    def execute(self, name, arguments, task_vars):
        before = time.time()
        return {"facts": {"clock": before + ahead}}

    monkeypatch.setattr(ActionModule, "_execute_module", execute)
    task = SimpleNamespace(args={}, async_val=0, action="preflight", check_mode=False, diff=False)
    connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir=None))
    action = ActionModule(task, connection, SimpleNamespace(check_mode=False), None, None, None)
    began = time.time()
    least, most = action.run(task_vars={})["offset"]
    assert least <= ahead <= most
    assert most - least <= time.time() - began
