"""Hosts with an active firewall: the platform opens what it needs for the networks named, and takes it back."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from harness import HEAD, HUB, WORKERS, wait_for
from sample import SEED, SOAK
from site_deployment import (
    ADDRESSES,
    CLIENT,
    FIREWALLD,
    HTTPS,
    NAMED,
    OTHER_PORT,
    STRANGER,
    UFW,
    fetch,
    named,
    reaches,
    rules,
)

HUB_PORT = 30080
# One whose firewall is ufw and one whose firewall is firewalld: in a soak both, else one of them.
NOTEBOOKS_ON = WORKERS if SOAK else random.Random(SEED).sample(WORKERS, 1)
PLAYBOOK = """
- hosts: head:workers
  gather_facts: false
  any_errors_fatal: true
  tasks:
    - ansible.builtin.setup: {gather_subset: ["!all", "!min", network]}
    - ansible.builtin.import_role: {name: gpuhub.platform.firewall, tasks_from: "{{ entry | default('main') }}"}
"""


@pytest.fixture(scope="module")
def role(tmp_path_factory) -> str:
    """A playbook of the role alone; `entry` names its entry point."""
    path = Path(tmp_path_factory.mktemp("play"), "firewall.yml")
    path.write_text(PLAYBOOK)
    return str(path)


def test_the_play_opens_the_firewalls(site):
    assert site.code == 0, site.output[-6000:]
    for host in ADDRESSES:
        line = f"{'firewalld' if host == FIREWALLD else 'ufw'} on {host}.lab: open to {NAMED}"
        assert line in site.output, f"the summary does not say '{line}'"


@pytest.mark.parametrize("host", ADDRESSES)
def test_the_hub_is_open_to_the_network_named_and_to_no_other(site, deployment, host):
    url = f"http://{ADDRESSES[host]}:{HUB_PORT}/hub/api"
    assert deployment.http(url)[0] == 200
    assert deployment.http(url, "--interface", STRANGER, "-m", "3")[0] == 0


def test_clients_reach_no_other_port_and_nodes_what_they_need(site, deployment):
    for host, address in ADDRESSES.items():
        for port in (10250, 16443, 25000, 5000, OTHER_PORT):
            assert not reaches(deployment, address, port, CLIENT), f"a client reaches {host}:{port}"
        assert reaches(deployment, address, OTHER_PORT, WORKERS[0]), f"a node does not reach {host}:{OTHER_PORT}"
        assert reaches(deployment, address, 10250, HEAD), f"the head does not reach kubelet of {host}"
        assert reaches(deployment, address, 22, CLIENT), f"SSH of {host} is closed"
    for worker in WORKERS:
        for port in (16443, 25000, 5000):
            assert reaches(deployment, ADDRESSES[HEAD], port, worker), f"{worker} does not reach the head's {port}"


def test_pods_find_each_other_by_name_on_other_nodes(site, deployment):
    for worker in WORKERS:
        for target in WORKERS:
            assert fetch(deployment, worker, f"http://talk-{target}.default.svc.cluster.local"), (worker, target)


@pytest.mark.parametrize("worker", NOTEBOOKS_ON)
def test_a_notebook_server_starts_on_each_worker(site, deployment, worker):
    token = f"Authorization: token {deployment.secret('jupyterhub-smoke-token')}"
    user = "gpuhub-smoke"

    def ask(path: str, *arguments: str) -> tuple[int, str]:
        return deployment.http(f"{HUB}{path}", "-H", token, *arguments)

    others = [other for other in WORKERS if other != worker]
    deployment.kubectl("cordon", *others)
    try:
        # The hub refuses while it is busy with the server, as when it looks after it following a restart of its own.
        wait_for("a start", lambda: ask(f"/hub/api/users/{user}/server", "-X", "POST")[0] in (201, 202))
        _, body = wait_for("the server answers", lambda: (r := ask(f"/user/{user}/api"))[0] == 200 and r)
        assert "version" in json.loads(body)
        pods = deployment.objects("pods", "-n", "jhub", "-l", "component=singleuser-server")
        assert [pod["spec"]["nodeName"] for pod in pods] == [worker]
    finally:
        deployment.kubectl("uncordon", *others)
        ask(f"/hub/api/users/{user}/server", "-X", "DELETE")
        wait_for("the server has stopped", lambda: not json.loads(ask(f"/hub/api/users/{user}")[1])["servers"])


def test_what_was_deleted_by_hand_is_reported_and_repaired(site, deployment, role):
    before = rules(deployment)
    deployment.on(HEAD, "nft delete table inet gpuhub")
    deployment.on(UFW[1], "ufw delete allow from 10.77.0.12/31 to any port 4789 proto udp")
    deployment.on(FIREWALLD, "rm /etc/firewalld/policies/gpuhub-host.xml && firewall-cmd --reload")
    broken = rules(deployment)
    assert all(broken[host] != before[host] for host in ADDRESSES)
    looked = deployment.play(*HTTPS, *named(NAMED), "--check", "--diff", playbook=role)
    assert rules(deployment) == broken
    for reported in ("table inet gpuhub", "port 4789 proto udp", "gpuhub-host.xml"):
        assert reported in looked.output
    deployment.play(*HTTPS, *named(NAMED), playbook=role)
    repaired = rules(deployment)
    for host in ADDRESSES:
        # ufw puts a rule that is added again at the end.
        assert sorted(repaired[host].splitlines()) == sorted(before[host].splitlines())


def test_a_network_that_is_no_longer_named_is_closed(site, deployment, role):
    moved = deployment.play(*HTTPS, *named(STRANGER), playbook=role)
    assert moved.code == 0, moved.output[-6000:]
    for address in ADDRESSES.values():
        url = f"http://{address}:{HUB_PORT}/hub/api"
        assert deployment.http(url, "--interface", STRANGER)[0] == 200
        assert deployment.http(url, "-m", "3")[0] == 0
    assert not any(NAMED in text for text in rules(deployment).values())


def test_both_firewalls_active_is_refused_before_any_change(site, deployment, role):
    before = rules(deployment)
    deployment.on(UFW[1], "systemctl start firewalld")
    try:
        refused = deployment.play(*HTTPS, *named(NAMED), "-e", "entry=check", playbook=role)
        assert refused.code != 0
        assert "ufw and firewalld are both active" in refused.output
    finally:
        deployment.on(UFW[1], "systemctl stop firewalld")
    assert rules(deployment) == before


def test_uninstall_leaves_the_firewalls_as_they_were(site, guarded, deployment, role):
    gone = deployment.play("-e", "entry=uninstall", playbook=role)
    assert gone.code == 0, gone.output[-6000:]
    assert rules(deployment) == guarded
    assert deployment.play("-e", "entry=uninstall", playbook=role).changed == 0
