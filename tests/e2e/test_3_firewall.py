"""Hosts with an active firewall: the platform opens what it needs for the networks named, and takes it back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import HEAD, WORKERS, Deployment, Play, wait_for

ADDRESSES = {HEAD: "10.77.0.11", WORKERS[0]: "10.77.0.12", WORKERS[1]: "10.77.0.13"}
UFW, FIREWALLD = [HEAD, WORKERS[0]], WORKERS[1]
# An address of the bastion that is in the network named; its own, 10.77.0.1, is not.
CLIENT, NAMED = "10.77.0.200", "10.77.0.192/26"
SINGLEUSER = "quay.io/jupyterhub/k8s-singleuser-sample:4.4.0"
HUB_PORT, OTHER_PORT = 30080, 30099
PLAYBOOK = """
- hosts: head:workers
  gather_facts: false
  any_errors_fatal: true
  tasks:
    - ansible.builtin.setup: {gather_subset: ["!all", "!min", network]}
    - ansible.builtin.import_role: {name: gpuhub.platform.firewall, tasks_from: "{{ entry | default('main') }}"}
"""
OBJECTS = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"talk-{worker}", "labels": {"talk": worker}},
            "spec": {
                "nodeName": worker,
                "terminationGracePeriodSeconds": 0,
                "containers": [
                    {"name": "talk", "image": SINGLEUSER, "command": ["python3", "-m", "http.server", "8000"]}
                ],
            },
        }
        for worker in WORKERS
    ]
    + [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": f"talk-{worker}"},
            "spec": {
                "type": "NodePort",
                "selector": {"talk": worker},
                "ports": [{"port": 80, "targetPort": 8000, "nodePort": OTHER_PORT + number}],
            },
        }
        for number, worker in enumerate(WORKERS)
    ],
}


def rules(deployment: Deployment) -> dict[str, str]:
    """Everything that the firewalls of the hosts hold, in their files and as it runs, by host and name."""
    script = """
        cat /etc/ufw/*.rules /etc/ufw/*.conf /etc/default/ufw; ufw show added
        find /etc/firewalld -type f | sort | xargs sha256sum
        if systemctl -q is-active firewalld; then
          firewall-cmd --list-all-zones; firewall-cmd --list-all-policies; firewall-cmd --direct --get-all-rules
        fi
        nft list table inet gpuhub 2>&1; ls /etc/systemd/system/gpuhub-* /etc/gpuhub/*.nft 2>&1
        iptables-save -t filter | grep -e '^-A ufw' -e '-j ufw' | sort
    """
    return {host: deployment.on(host, script, check=False) for host in ADDRESSES}


def reaches(deployment: Deployment, address: str, port: int, source: str = "") -> bool:
    """Whether a TCP connection comes about from a host of the lab, or from an address of the bastion."""
    code = f"import socket; socket.create_connection(('{address}', {port}), 2, ('{ADDRESSES.get(source, source)}', 0))"
    where = ("exec", source) if source in ADDRESSES else ("run",)
    try:
        deployment.lab(*where, "python3", "-c", code)
    except AssertionError:
        return False
    return True


def fetch(deployment: Deployment, worker: str, url: str) -> bool:
    """Whether a pod on a worker gets an answer with status 200."""
    code = f"import urllib.request; assert urllib.request.urlopen('{url}', timeout=5).status == 200"
    try:
        deployment.kubectl("exec", f"talk-{worker}", "--", "python3", "-c", code)
    except AssertionError:
        return False
    return True


def named(*networks: str) -> tuple[str, str]:
    return "-e", json.dumps({"firewall_client_networks": networks})


@pytest.fixture(scope="module")
def role(tmp_path_factory) -> str:
    """A playbook of the role alone; `entry` names its entry point."""
    path = Path(tmp_path_factory.mktemp("play"), "firewall.yml")
    path.write_text(PLAYBOOK)
    return str(path)


@pytest.fixture(scope="module")
def guarded(deployment: Deployment) -> Iterator[dict[str, str]]:
    """The deployed lab with firewalls of the site turned on that allow SSH and nothing else; what they hold."""
    deployment.lab("run", "ip", "address", "add", f"{CLIENT}/24", "dev", "br0")
    try:
        deployment.kubectl("apply", "-f", "-", stdin=json.dumps(OBJECTS))
        deployment.kubectl("wait", "--for=condition=Ready", "pod", "-l", "talk", "--timeout=120s")
        assert fetch(deployment, WORKERS[0], f"http://talk-{WORKERS[1]}")
        for host in UFW:
            deployment.on(
                host, "ufw allow 22/tcp && ufw limit from 10.77.0.99 comment 'by the site' && ufw --force enable"
            )
        deployment.on(FIREWALLD, "systemctl enable --now firewalld && firewall-cmd --state")
        yield rules(deployment)
    finally:
        deployment.lab("run", "ip", "address", "del", f"{CLIENT}/24", "dev", "br0", check=False)
        for host in UFW:
            deployment.on(host, "ufw disable")
        deployment.on(FIREWALLD, "systemctl disable --now firewalld")
        deployment.kubectl("delete", "--wait=false", "-f", "-", stdin=json.dumps(OBJECTS))
        wait_for("everything runs", deployment.works, 180)


@pytest.fixture(scope="module")
def opened(guarded, deployment) -> Play:
    """site.yml on hosts with active firewalls; the control is that nodes and pods did not reach each other before."""
    assert not reaches(deployment, ADDRESSES[WORKERS[0]], 10250, HEAD)
    assert not reaches(deployment, ADDRESSES[FIREWALLD], 10250, HEAD)
    assert not fetch(deployment, WORKERS[0], f"http://talk-{WORKERS[1]}")
    return deployment.play(*named(NAMED))


def test_both_firewalls_active_is_refused_before_any_change(guarded, deployment, role):
    deployment.on(UFW[1], "systemctl start firewalld")
    try:
        refused = deployment.play(*named(NAMED), "-e", "entry=check", playbook=role)
        assert refused.code != 0
        assert "ufw and firewalld are both active" in refused.output
    finally:
        deployment.on(UFW[1], "systemctl stop firewalld")
    assert rules(deployment) == guarded


def test_the_play_opens_the_firewalls_and_changes_nothing_else(opened):
    assert opened.code == 0, opened.output[-6000:]
    assert [task.rpartition(" : ")[2] for task in opened.changed_tasks()] == [
        "The host's firewall lets the platform work and no more"
    ]
    for host in ADDRESSES:
        line = f"{'firewalld' if host == FIREWALLD else 'ufw'} on {host}.lab: open to {NAMED}"
        assert line in opened.output, f"the summary does not say '{line}'"


def test_a_second_run_changes_nothing(opened, deployment):
    again = deployment.play(*named(NAMED))
    assert again.code == 0, again.output[-6000:]
    assert again.changed == 0, again.changed_tasks()


@pytest.mark.parametrize("host", ADDRESSES)
def test_the_hub_is_open_to_the_network_named_and_to_no_other(opened, deployment, host):
    url = f"http://{ADDRESSES[host]}:{HUB_PORT}/hub/api"
    assert deployment.http(url, "--interface", CLIENT)[0] == 200
    assert deployment.http(url, "-m", "3")[0] == 0


def test_clients_reach_no_other_port_and_nodes_what_they_need(opened, deployment):
    for host, address in ADDRESSES.items():
        for port in (10250, 16443, 25000, 5000, OTHER_PORT):
            assert not reaches(deployment, address, port, CLIENT), f"a client reaches {host}:{port}"
        assert reaches(deployment, address, OTHER_PORT, WORKERS[0]), f"a node does not reach {host}:{OTHER_PORT}"
        assert reaches(deployment, address, 10250, HEAD), f"the head does not reach kubelet of {host}"
        assert reaches(deployment, address, 22, CLIENT), f"SSH of {host} is closed"
    for worker in WORKERS:
        for port in (16443, 25000, 5000):
            assert reaches(deployment, ADDRESSES[HEAD], port, worker), f"{worker} does not reach the head's {port}"


def test_pods_find_each_other_by_name_on_other_nodes(opened, deployment):
    for worker in WORKERS:
        for target in WORKERS:
            assert fetch(deployment, worker, f"http://talk-{target}.default.svc.cluster.local"), (worker, target)


@pytest.mark.parametrize("worker", WORKERS)
def test_a_notebook_server_starts_on_each_worker(opened, deployment, worker):
    token = f"Authorization: token {deployment.secret('jupyterhub-smoke-token')}"
    hub, user = f"http://{ADDRESSES[HEAD]}:{HUB_PORT}", "gpuhub-smoke"

    def ask(path: str, *arguments: str) -> tuple[int, str]:
        return deployment.http(f"{hub}{path}", "--interface", CLIENT, "-H", token, *arguments)

    others = [other for other in WORKERS if other != worker]
    deployment.kubectl("cordon", *others)
    try:
        assert ask(f"/hub/api/users/{user}/server", "-X", "POST")[0] in (201, 202)
        _, body = wait_for("the server answers", lambda: (r := ask(f"/user/{user}/api"))[0] == 200 and r)
        assert "version" in json.loads(body)
        pods = deployment.objects("pods", "-n", "jhub", "-l", "component=singleuser-server")
        assert [pod["spec"]["nodeName"] for pod in pods] == [worker]
    finally:
        deployment.kubectl("uncordon", *others)
        ask(f"/hub/api/users/{user}/server", "-X", "DELETE")
        wait_for("the server has stopped", lambda: not json.loads(ask(f"/hub/api/users/{user}")[1])["servers"])


def test_what_was_deleted_by_hand_is_reported_and_repaired(opened, deployment, role):
    before = rules(deployment)
    deployment.on(HEAD, "nft delete table inet gpuhub")
    deployment.on(UFW[1], "ufw delete allow from 10.77.0.12/31 to any port 4789 proto udp")
    deployment.on(FIREWALLD, "rm /etc/firewalld/policies/gpuhub-host.xml && firewall-cmd --reload")
    broken = rules(deployment)
    assert all(broken[host] != before[host] for host in ADDRESSES)
    looked = deployment.play(*named(NAMED), "--check", "--diff", playbook=role)
    assert rules(deployment) == broken
    for reported in ("table inet gpuhub", "port 4789 proto udp", "gpuhub-host.xml"):
        assert reported in looked.output
    deployment.play(*named(NAMED), playbook=role)
    repaired = rules(deployment)
    for host in ADDRESSES:
        # ufw puts a rule that is added again at the end.
        assert sorted(repaired[host].splitlines()) == sorted(before[host].splitlines())


def test_a_network_that_is_no_longer_named_is_closed(opened, deployment, role):
    moved = deployment.play(*named("10.77.0.1"), playbook=role)
    assert moved.code == 0, moved.output[-6000:]
    for address in ADDRESSES.values():
        url = f"http://{address}:{HUB_PORT}/hub/api"
        assert deployment.http(url)[0] == 200
        assert deployment.http(url, "--interface", CLIENT, "-m", "3")[0] == 0
    assert not any(NAMED in text for text in rules(deployment).values())


def test_uninstall_leaves_the_firewalls_as_they_were(opened, guarded, deployment, role):
    gone = deployment.play("-e", "entry=uninstall", playbook=role)
    assert gone.code == 0, gone.output[-6000:]
    assert rules(deployment) == guarded
    assert deployment.play("-e", "entry=uninstall", playbook=role).changed == 0
