"""Bad input ends in one clear report before anything changes; rows are in tests/bad_input."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from bad_input import Fault, Groups, Refusal, rows
from harness import HEAD, REPOSITORY, WORKERS, Deployment, Play

LAB = REPOSITORY / "inventories" / "lab"
FAULTS: list[Fault] = rows("FAULTS")
REFUSALS: list[Refusal] = rows("REFUSALS")
# What no run may touch: settings, programs, the platform's folders, the shared storage.
FOLDERS = "/etc /mnt/shared /opt /root /snap /srv /usr/local /var/lib/gpuhub /var/snap"


class Refused(NamedTuple):
    """A play that all faults were planted for, and its report by (host, check)."""

    play: Play
    report: dict[tuple[str, str], list[dict[str, str]]]


def words(text: str) -> str:
    """Text with each white space a single blank: tables and YAML break lines where they like."""
    return re.sub(r"\s+", " ", text)


def inventory(folder: Path, edits: list[Any]) -> str:
    """The lab's inventory with its groups edited."""
    document = yaml.safe_load((LAB / "hosts.yml").read_text())
    groups: Groups = copy.deepcopy(document["all"]["children"])
    for edit in edits:
        edit(groups)
    document["all"]["children"] = groups
    folder.mkdir()
    (folder / "hosts.yml").write_text(yaml.safe_dump(document))
    (folder / "group_vars").symlink_to(LAB / "group_vars")
    return str(folder)


def state(deployment: Deployment) -> dict[str, list[str]]:
    """Every folder and file of the hosts that a deployment could touch; files with size and time of last change."""
    # Ansible's own folder for what it runs is not of the deployment.
    what = r"-path /root/.ansible -prune -o -type d -printf '%p %m\n' -o -printf '%p %m %s %T@\n'"
    listing = f"find {FOLDERS} {what} 2>/dev/null | sort"
    return {host: deployment.on(host, listing, check=False).splitlines() for host in (HEAD, *WORKERS)}


@pytest.fixture(scope="module")
def before(bare: Deployment) -> dict[str, list[str]]:
    """The state of hosts with nothing on them."""
    return state(bare)


@pytest.fixture(scope="module")
def refused(bare: Deployment, before: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Refused]:
    """One run of site.yml with all faults at once; they are undone even if it fails."""
    folder = tmp_path_factory.mktemp("faults")
    arguments = [argument for fault in FAULTS for argument in fault.arguments]
    edits = [fault.groups for fault in FAULTS if fault.groups]
    with ExitStack() as undo:
        for fault in FAULTS:
            host = fault.host.partition(".")[0]
            if fault.plant:
                bare.on(host, f"set -eu\n{fault.plant}")
                undo.callback(bare.on, host, fault.undo)
        path = folder / "report.json"
        play = bare.play(*arguments, "-e", f"preflight_report={path}", inventory=inventory(folder / "inventory", edits))
    report: dict[tuple[str, str], list[dict[str, str]]] = {}
    for finding in json.loads(path.read_text())["findings"] if path.exists() else []:
        report.setdefault((finding["host"], finding["name"]), []).append(finding)
    yield Refused(play, report)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_fault_is_in_one_report(refused, fault):
    found = refused.report.get((fault.host, fault.check), [])
    assert any(fault.found in one["found"] and fault.cure in one["cure"] for one in found), (found, refused.play.output)
    assert all(one["severity"] == "error" for one in found)
    table = words(refused.play.output)
    assert fault.check in table
    assert words(found[0]["cure"]).split()[0] in table


def test_nothing_else_is_an_error(refused):
    """Otherwise a report that calls everything wrong would do."""
    expected = {(fault.host, fault.check) for fault in FAULTS}
    # Thresholds are for all hosts alike, and a worker's missing mount is one that differs as well.
    everywhere = {check for fault in FAULTS if fault.arguments for check in [fault.check]}
    errors = {key for key, found in refused.report.items() if found[0]["severity"] == "error"}
    assert {key for key in errors - expected if key[1] not in everywhere} == set()


def test_faults_stop_before_any_change(refused, bare, before):
    assert refused.play.code != 0
    assert refused.play.changed == 0, refused.play.changed_tasks()
    assert "TASK [Every problem is named at once]" in words(refused.play.output).replace(
        "gpuhub.platform.preflight : ", ""
    )
    assert "PLAY [Compare the bundle" not in refused.play.output
    assert state(bare) == before


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_refused(bare, before, tmp_path, refusal):
    report = tmp_path / "report.json"
    arguments = [*refusal.arguments, *(refusal.prepare(bare, tmp_path) if refusal.prepare else ())]
    edits = [refusal.groups] if refusal.groups else []
    play = bare.play(*arguments, "-e", f"preflight_report={report}", inventory=inventory(tmp_path / "inventory", edits))
    assert play.code != 0, play.output
    # The report's own table breaks lines between columns; its JSON has the same texts whole.
    said = words(play.output + (report.read_text() if report.exists() else ""))
    missing = [text for text in refusal.says if text not in said]
    assert not missing, f"not said: {missing}\n{play.output}"
    assert play.changed == 0, play.changed_tasks()
    assert state(bare) == before


def test_preflight_alone_shows_warnings_and_what_was_accepted(bare, before, tmp_path):
    report = tmp_path / "report.json"
    play = bare.play(
        "-e",
        json.dumps({"preflight_accept": ["disk"], "preflight_min_disk_gb": 10**6, "preflight_report": str(report)}),
        playbook="playbooks/preflight.yml",
    )
    assert play.code == 0, play.output
    document = json.loads(report.read_text())
    assert document["ok"]
    accepted = {(one["host"], one["name"]) for one in document["findings"] if one["severity"] == "accepted"}
    assert accepted == {(f"{host}.lab", "disk") for host in (HEAD, *WORKERS)}
    assert "clear-text" in play.output
    assert "accepted" in play.output
    assert document["hosts"]["worker1.lab"]["host_name"] == "worker1"
    assert state(bare) == before
