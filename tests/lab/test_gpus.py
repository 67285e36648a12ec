"""GPUs on the lab's hosts: real kubelets, scheduler and API server, and the double of NVIDIA's device plugin.

The tests are one story on one lab instance and run in the order in which they stand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml
from microk8s_hosts import BUSYBOX, DATA, Hosts, snaps, wait

HEAD, WORKERS = "head", ("worker1", "worker2")
UNIT = "snap.microk8s.daemon-kubelite"
LABELS = {
    "worker1": {"product": "NVIDIA-A100-SXM4-80GB", "count": "8", "memory": "81920", "family": "ampere",
                "compute.major": "8", "compute.minor": "0"},
    "worker2": {"product": "NVIDIA-H100-80GB-HBM3", "count": "8", "memory": "81559", "family": "hopper",
                "compute.major": "9", "compute.minor": "0"},
}  # fmt: skip
# As site.yml configures it: a kubelet may change its own node and no other, and not all of its labels.
LAUNCH = {
    "version": "0.1.0",
    "extraKubeAPIServerArgs": {
        "--authorization-mode": "RBAC,Node",
        "--enable-admission-plugins": "EventRateLimit,NodeRestriction",
    },
}
HOSTS = Hosts("gputest")
run, lab = HOSTS.run, HOSTS.lab


def kubectl(words: str, code: int | None = 0, stdin: bytes | None = None) -> str:
    return run(HEAD, f"/snap/bin/microk8s kubectl {words}", code, stdin)


def node(name: str) -> dict[str, Any]:
    return json.loads(kubectl(f"get node {name} -o json"))


def gpus(name: str) -> tuple[str | None, str | None]:
    """Capacity and allocatable of a node."""
    status = node(name)["status"]
    return status["capacity"].get("nvidia.com/gpu"), status["allocatable"].get("nvidia.com/gpu")


def wait_for_gpus(name: str, capacity: int, allocatable: int) -> None:
    expected = (str(capacity), str(allocatable))
    wait(lambda: gpus(name) == expected, f"{name}: {capacity} GPUs, {allocatable} of them healthy")


def labels(name: str) -> dict[str, str]:
    """Labels of a node below nvidia.com."""
    found = node(name)["metadata"]["labels"].items()
    return {key.removeprefix("nvidia.com/gpu."): value for key, value in found if key.startswith("nvidia.com/")}


def wait_for_labels(name: str, **changes: str) -> None:
    expected = {**LABELS[name], "present": "true", "machine": "Lab-host", "replicas": "1", **changes}
    wait(lambda: labels(name) == expected, f"labels of {name}")


def ids(host: str) -> list[str]:
    """Ids of a host's GPUs in the order of their indexes."""
    return [line.split()[0] for line in run(host, "gpu-double list").splitlines()]


def create(name: str, count: int, product: str) -> None:
    """A pod that prints which GPUs it has been given, on a node that has this product."""
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
            "nodeSelector": {"nvidia.com/gpu.product": product},
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        },
    }
    kubectl("create -f -", stdin=json.dumps(pod).encode())


def given(name: str) -> list[str]:
    """Ids of the GPUs that a pod was given, once it runs."""
    kubectl(f"wait pod {name} --for=condition=Ready --timeout=300s")
    return kubectl(f"logs {name}").strip().split(",")


def registrations(host: str) -> int:
    return run(host, "journalctl -u gpu-double --no-pager").count("registered nvidia.com/gpu")


def restart_kubelet(host: str) -> None:
    before = registrations(host)
    run(host, f"systemctl restart {UNIT}")
    wait(lambda: registrations(host) == before + 1, f"{host}: registered with the new kubelet")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Three hosts in one cluster."""
    lab("clean")
    lab("up", "--workers", "2")
    stems = [snap.stem for snap in snaps.SNAPS]
    install = "; ".join(
        f"snap ack {stem}.assert; snap install {'--classic' if stem == stems[-1] else ''} {stem}.snap" for stem in stems
    )

    def deploy(host: str) -> None:
        HOSTS.deliver(host)
        run(host, "cat > /etc/microk8s.yaml", stdin=yaml.safe_dump(LAUNCH).encode())
        run(host, f"set -e; cd /opt/snaps; {install}; /snap/bin/microk8s status --wait-ready --timeout 90")

    with ThreadPoolExecutor() as pool:
        list(pool.map(deploy, (HEAD, *WORKERS)))
    for worker in WORKERS:
        check = run(HEAD, "/snap/bin/microk8s add-node --format token-check").strip()
        run(worker, f"/snap/bin/microk8s join 10.77.0.11:25000/{check} --worker")
    wait(lambda: kubectl("get nodes --no-headers").count(" Ready ") == 3, "nodes Ready")
    yield
    lab("clean")


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_has_gpus_of_its_product(worker: str) -> None:
    wait_for_gpus(worker, 8, 8)
    wait_for_labels(worker)
    assert [line.split()[1] for line in run(worker, "gpu-double list").splitlines()] == ["Healthy"] * 8


def test_the_head_has_none_and_says_nothing() -> None:
    assert gpus(HEAD) == (None, None)
    assert labels(HEAD) == {}
    assert "this host has no GPUs" in run(HEAD, "gpu-double list", 1)
    run(HEAD, "! systemctl is-active gpu-double.path gpu-double.service && systemctl is-system-running")
    assert run(HEAD, "journalctl -u gpu-double.service --no-pager --quiet") == ""


def test_ids_are_distinct() -> None:
    assert len({*ids("worker1"), *ids("worker2")}) == 16


def test_pods_are_given_devices_by_id() -> None:
    for name, count in (("two", 2), ("six", 6)):
        create(name, count, LABELS["worker1"]["product"])
        given(name)
    assert given("two") == ids("worker1")[:2]
    assert given("six") == ids("worker1")[2:]
    create("one", 1, LABELS["worker1"]["product"])
    wait(lambda: "Insufficient nvidia.com/gpu" in kubectl("get events -o json"), "refused by the scheduler")
    kubectl("delete pod six")
    assert given("one") == ids("worker1")[2:3]


def test_unhealthy_lowers_allocatable_but_not_capacity() -> None:
    broken = ids("worker2")[3]
    run("worker2", f"gpu-double unhealthy 0 {broken}")
    wait_for_gpus("worker2", 8, 6)
    assert [line.split()[1] for line in run("worker2", "gpu-double list").splitlines()].count("Unhealthy") == 2
    wait_for_labels("worker2")
    create("healthy", 6, LABELS["worker2"]["product"])
    assert given("healthy") == [device for device in ids("worker2")[1:] if device != broken]
    run("worker2", "gpu-double healthy 0")
    wait_for_gpus("worker2", 8, 7)
    assert "no GPU is called" in run("worker2", "gpu-double unhealthy 8", 1)
    # A pod keeps the device that breaks.
    run("worker2", "gpu-double unhealthy 1")
    wait_for_gpus("worker2", 8, 6)
    assert kubectl("get pod healthy -o jsonpath={.status.phase}") == "Running"
    run("worker2", f"gpu-double healthy 1 {broken}")
    wait_for_gpus("worker2", 8, 8)
    kubectl("delete pod healthy")


def test_all_is_kept_over_a_restart_of_kubelet() -> None:
    run("worker1", "gpu-double unhealthy 7")
    wait_for_gpus("worker1", 8, 7)
    restart_kubelet("worker1")
    # Of the devices that are left, so kubelet has not forgotten whose the others are.
    create("after-restart", 4, LABELS["worker1"]["product"])
    assert given("after-restart") == ids("worker1")[3:7]
    wait_for_gpus("worker1", 8, 7)
    state = "'{.status.phase} {.status.containerStatuses[0].restartCount}'"
    for pod in ("one", "two"):
        assert kubectl(f"get pod {pod} -o jsonpath={state}") == "Running 0"
    wait_for_labels("worker1")


def test_labels_come_back() -> None:
    kubectl("label node worker2 nvidia.com/gpu.product- --overwrite nvidia.com/gpu.count=1")
    wait_for_labels("worker2")
    former = node("worker2")["metadata"]["uid"]
    kubectl("delete node worker2")
    restart_kubelet("worker2")
    wait(lambda: run(HEAD, "/snap/bin/microk8s kubectl get node worker2", None).code == 0, "the node is there again")
    assert node("worker2")["metadata"]["uid"] != former
    wait_for_labels("worker2")
    wait_for_gpus("worker2", 8, 8)


def test_all_is_kept_over_a_reboot_but_for_pods() -> None:
    before = ids("worker1")
    HOSTS.reboot("worker1")
    wait(lambda: run("worker1", "systemctl is-active gpu-double", None).strip() == "active", "gpu-double")
    # NVIDIA's plugin is a pod itself: when kubelet admits those that were there, nobody has registered yet.
    reason = "get pod two -o jsonpath={.status.reason}"
    wait(lambda: kubectl(reason) == "UnexpectedAdmissionError", "the pod is refused its GPUs")
    wait_for_gpus("worker1", 8, 7)
    wait_for_labels("worker1")
    assert ids("worker1") == before
    create("after-reboot", 7, LABELS["worker1"]["product"])
    assert given("after-reboot") == before[:7]


def test_a_start_of_the_service_alone_is_no_boot() -> None:
    before = registrations("worker1")
    run("worker1", "systemctl restart gpu-double")
    wait(lambda: registrations("worker1") == before + 1, "registered")
    wait_for_gpus("worker1", 8, 7)
    run("worker1", f"systemctl stop {UNIT} && systemctl restart gpu-double && systemctl start {UNIT}")
    # Until then kubelet refuses pods with GPUs, and the node's object says nothing of it.
    wait(lambda: registrations("worker1") == before + 2, "registered with the new kubelet")
    wait(lambda: "Ready" in kubectl("get node worker1 --no-headers", None).split(), "worker1 Ready")
    kubectl("delete pod after-reboot")
    create("after-start", 7, LABELS["worker1"]["product"])
    assert given("after-start") == ids("worker1")[:7]


def test_other_gpus_from_the_next_start() -> None:
    before = ids("worker2")
    lab("up", "--gpus", "worker2=4xT4")
    assert ids("worker2") == before
    lab("kill", "worker2")
    lab("up")
    assert ids("worker2") == before[:4]
    wait_for_gpus("worker2", 4, 4)
    t4 = {"product": "Tesla-T4", "count": "4", "memory": "15360", "family": "turing"}
    wait_for_labels("worker2", **t4, **{"compute.major": "7", "compute.minor": "5"})


def test_it_waits_for_the_next_installation() -> None:
    run("worker2", "snap remove --purge microk8s")
    wait(lambda: run("worker2", "systemctl is-active gpu-double", None).strip() == "inactive", "gpu-double has ended")
    run("worker2", "systemctl is-active gpu-double.path && systemctl is-system-running")
    assert run("worker2", f"ls -d {DATA}", None).code != 0
