"""GPUs on the lab's hosts: real kubelets, scheduler and API server, and the double of NVIDIA's device plugin.

The tests are one story, which goes on from that of test_microk8s_double.py, on its hosts.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from microk8s_hosts import BUSYBOX, DATA, HEAD, HOSTS, WORKER, Result, wait

pytestmark = pytest.mark.usefixtures("hosts")
UNIT = "snap.microk8s.daemon-kubelite"
LABELS = {"product": "NVIDIA-A100-SXM4-80GB", "count": "8", "memory": "81920", "family": "ampere",
          "compute.major": "8", "compute.minor": "0"}  # fmt: skip
run, lab = HOSTS.run, HOSTS.lab


def kubectl(words: str, code: int | None = 0, stdin: bytes | None = None) -> Result:
    return run(HEAD, f"/snap/bin/microk8s kubectl {words}", code, stdin)


def node(name: str = WORKER) -> dict[str, Any]:
    return json.loads(kubectl(f"get node {name} -o json"))


def gpus(name: str = WORKER) -> tuple[str | None, str | None]:
    """Capacity and allocatable of a node."""
    status = node(name)["status"]
    return status["capacity"].get("nvidia.com/gpu"), status["allocatable"].get("nvidia.com/gpu")


def wait_for_gpus(capacity: int, allocatable: int) -> None:
    wait(lambda: gpus() == (str(capacity), str(allocatable)), f"{capacity} GPUs, {allocatable} of them healthy")


def labels(name: str = WORKER) -> dict[str, str]:
    """Labels of a node below nvidia.com."""
    found = node(name)["metadata"]["labels"].items()
    return {key.removeprefix("nvidia.com/gpu."): value for key, value in found if key.startswith("nvidia.com/")}


def wait_for_labels(**changes: str) -> None:
    expected = {**LABELS, "present": "true", "machine": "Lab-host", "replicas": "1", **changes}
    wait(lambda: labels() == expected, "labels of the node")


def ids() -> list[str]:
    """Ids of the worker's GPUs in the order of their indexes."""
    return [line.split()[0] for line in run(WORKER, "gpu-double list").splitlines()]


def health() -> list[str]:
    """Of each of them, in the same order."""
    return [line.split()[1] for line in run(WORKER, "gpu-double list").splitlines()]


def create(name: str, count: int) -> None:
    """A pod that prints which GPUs it has been given, on a node that has the worker's product."""
    container = {
        "name": "main",
        "image": BUSYBOX,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", "echo $NVIDIA_VISIBLE_DEVICES; exec sleep 1000000"],
        "resources": {"limits": {"nvidia.com/gpu": count}},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "nodeSelector": {"nvidia.com/gpu.product": LABELS["product"]},
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        },
    }
    kubectl("create -f -", stdin=json.dumps(pod).encode())


def given(name: str) -> list[str]:
    """Ids of the GPUs that a pod was given, once it runs."""
    kubectl(f"wait pod {name} --for=condition=Ready --timeout=300s")
    return kubectl(f"logs {name}").strip().split(",")


def registrations() -> int:
    return run(WORKER, "journalctl -u gpu-double --no-pager").count("registered nvidia.com/gpu")


def restart_kubelet() -> None:
    before = registrations()
    run(WORKER, f"systemctl restart {UNIT}")
    wait(lambda: registrations() == before + 1, "registered with the new kubelet")


def test_a_worker_has_gpus_of_its_product() -> None:
    wait_for_gpus(8, 8)
    wait_for_labels()
    assert health() == ["Healthy"] * 8
    assert len(set(ids())) == 8


def test_the_head_has_none_and_says_nothing() -> None:
    assert gpus(HEAD) == (None, None)
    assert labels(HEAD) == {}
    assert "this host has no GPUs" in run(HEAD, "gpu-double list", 1)
    run(HEAD, "! systemctl is-active gpu-double.path gpu-double.service && systemctl is-system-running")
    assert run(HEAD, "journalctl -u gpu-double.service --no-pager --quiet") == ""


def test_pods_are_given_devices_by_id() -> None:
    for name, count in (("two", 2), ("six", 6)):
        create(name, count)
        given(name)
    assert given("two") == ids()[:2]
    assert given("six") == ids()[2:]
    create("one", 1)
    wait(lambda: "Insufficient nvidia.com/gpu" in kubectl("get events -o json"), "refused by the scheduler")
    kubectl("delete pod six")
    assert given("one") == ids()[2:3]


def test_unhealthy_lowers_allocatable_but_not_capacity() -> None:
    """The first three are held."""
    broken = ids()[5]
    run(WORKER, f"gpu-double unhealthy 3 {broken}")
    wait_for_gpus(8, 6)
    assert health().count("Unhealthy") == 2
    wait_for_labels()
    create("healthy", 3)
    assert given("healthy") == [ids()[4], *ids()[6:]]
    run(WORKER, "gpu-double healthy 3")
    wait_for_gpus(8, 7)
    assert "no GPU is called" in run(WORKER, "gpu-double unhealthy 8", 1)
    # A pod keeps the device that breaks.
    run(WORKER, "gpu-double unhealthy 4")
    wait_for_gpus(8, 6)
    assert kubectl("get pod healthy -o jsonpath={.status.phase}") == "Running"
    run(WORKER, f"gpu-double healthy 4 {broken}")
    wait_for_gpus(8, 8)
    kubectl("delete pod healthy")


def test_all_is_kept_over_a_restart_of_kubelet() -> None:
    run(WORKER, "gpu-double unhealthy 7")
    wait_for_gpus(8, 7)
    restart_kubelet()
    # Of the devices that are left, so kubelet has not forgotten whose the others are.
    create("after-restart", 4)
    assert given("after-restart") == ids()[3:7]
    wait_for_gpus(8, 7)
    state = "'{.status.phase} {.status.containerStatuses[0].restartCount}'"
    for pod in ("one", "two"):
        assert kubectl(f"get pod {pod} -o jsonpath={state}") == "Running 0"
    wait_for_labels()


def test_all_is_kept_over_a_reboot_but_for_pods() -> None:
    before = ids()
    HOSTS.reboot(WORKER)
    wait(lambda: run(WORKER, "systemctl is-active gpu-double", None).strip() == "active", "gpu-double")
    # NVIDIA's plugin is a pod itself: when kubelet admits those that were there, nobody has registered yet.
    reason = "get pod two -o jsonpath={.status.reason}"
    wait(lambda: kubectl(reason) == "UnexpectedAdmissionError", "the pod is refused its GPUs")
    wait_for_gpus(8, 7)
    wait_for_labels()
    assert ids() == before
    create("after-reboot", 7)
    assert given("after-reboot") == before[:7]


def test_a_start_of_the_service_alone_is_no_boot() -> None:
    before = registrations()
    run(WORKER, "systemctl restart gpu-double")
    wait(lambda: registrations() == before + 1, "registered")
    wait_for_gpus(8, 7)
    run(WORKER, f"systemctl stop {UNIT} && systemctl restart gpu-double && systemctl start {UNIT}")
    # Until then kubelet refuses pods with GPUs, and the node's object says nothing of it.
    wait(lambda: registrations() == before + 2, "registered with the new kubelet")
    wait(lambda: "Ready" in kubectl(f"get node {WORKER} --no-headers", None).split(), "the worker is Ready")
    kubectl("delete pod after-reboot")
    create("after-start", 7)
    assert given("after-start") == ids()[:7]


def test_labels_come_back() -> None:
    kubectl(f"label node {WORKER} nvidia.com/gpu.product- --overwrite nvidia.com/gpu.count=1")
    wait_for_labels()
    former = node()["metadata"]["uid"]
    kubectl(f"delete node {WORKER}")
    restart_kubelet()
    wait(lambda: kubectl(f"get node {WORKER}", None).code == 0, "the node is there again")
    assert node()["metadata"]["uid"] != former
    wait_for_labels()
    wait_for_gpus(8, 7)


def test_other_gpus_from_the_next_start() -> None:
    before = ids()
    lab("up", "--gpus", f"{WORKER}=4xT4")
    assert ids() == before
    lab("kill", WORKER)
    lab("up")
    assert ids() == before[:4]
    wait_for_gpus(4, 4)
    t4 = {"product": "Tesla-T4", "count": "4", "memory": "15360", "family": "turing"}
    wait_for_labels(**t4, **{"compute.major": "7", "compute.minor": "5"})


def test_nothing_of_microk8s_is_left_once_it_is_removed_and_gpus_wait_for_the_next() -> None:
    run(WORKER, "snap remove --purge microk8s")
    looks = (
        "ls -d /snap/microk8s /var/snap/microk8s /etc/systemd/system/snap.microk8s* /var/lib/kubelet /run/netns/cni-*",
        "ip -o link | grep -E 'cni0|flannel|veth'",
        "grep -E 'kubelet|containerd' /proc/self/mounts",
        "pgrep -l 'kube|containerd|etcd'",
    )
    assert run(WORKER, f"({'; '.join(looks)}) 2>/dev/null", None) == ""
    assert run(WORKER, f"ls -d {DATA}", None).code != 0
    wait(lambda: run(WORKER, "systemctl is-active gpu-double", None).strip() == "inactive", "gpu-double has ended")
    run(WORKER, "systemctl is-active gpu-double.path && systemctl is-system-running")
