"""site.yml, cut off on its way, makes bare hosts without any way to the internet a JupyterHub that runs notebooks."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import interruptions
import pytest
import sample
from harness import CACHE, HEAD, HUB, WORKERS, Deployment, Play, wait_for
from sample import SEED, SOAK
from state import keep_outline

NEVER_THERE = "203.0.113.7"
SINGLEUSER = "quay.io/jupyterhub/k8s-singleuser-sample:4.4.0"


@pytest.fixture(scope="module")
def runs(bare: Deployment, tmp_path_factory) -> list[Play]:
    """A deployment of hosts with nothing on them: three runs that are cut off, each further on than the one before, and
    one that is left alone. In a soak that one is all, and test_4_killed_runs.py compares others with it."""
    bare.attempts(reset=True)
    cuts = interruptions.drawn(random.Random(SEED))
    return [*(() if SOAK else interruptions.chain(bare, cuts, tmp_path_factory.mktemp("killed"), {})), bare.play()]


@pytest.fixture(scope="module")
def from_nothing(runs: list[Play]) -> Play:
    """The run that is left alone."""
    return runs[-1]


@pytest.fixture(scope="module")
def damaged_bundle() -> Iterator[Path]:
    """The bundle with an image left out, a layer flipped, a snap cut off, an image for other machines, one too many."""
    with tempfile.TemporaryDirectory(prefix="gpuhub-bundle-", dir="/var/tmp") as folder:
        bundle = Path(folder, "bundle")
        shutil.copytree(CACHE / "bundle", bundle, copy_function=os.link)
        manifest = json.loads((bundle / "manifest.json").read_text())
        images = {image["reference"]: image for image in manifest["images"]}
        images["docker.io/coredns/coredns:1.12.3"]["reference"] = "example.com/one/too-many:1"
        images["docker.io/library/registry:3.0.0"]["platform"] = "linux/arm64"
        snap = next(snap for snap in manifest["snaps"] if snap["name"] == "microk8s")
        replace(bundle / snap["file"], (bundle / snap["file"]).read_bytes()[:-1])
        described = bundle / "oci/blobs/sha256" / images[SINGLEUSER]["digest"].partition(":")[2]
        layer = json.loads(described.read_text())["layers"][-1]["digest"].partition(":")[2]
        content = bytearray((bundle / "oci/blobs/sha256" / layer).read_bytes())
        content[len(content) // 2] ^= 1
        replace(bundle / "oci/blobs/sha256" / layer, bytes(content))
        replace(bundle / "manifest.json", json.dumps(manifest).encode())
        yield bundle


def replace(path: Path, content: bytes) -> None:
    """Write a file anew: the old one is a hard link to the cache."""
    path.unlink()
    path.write_bytes(content)


def test_a_damaged_bundle_is_refused_in_one_report_before_anything_changes(bare, damaged_bundle):
    refused = bare.play("-e", f"offline_images_bundle={damaged_bundle}")
    assert refused.code != 0
    for named in (
        "docker.io/coredns/coredns:1.12.3",
        "docker.io/library/registry:3.0.0",
        "linux/arm64",
        "microk8s_",
        SINGLEUSER,
        "example.com/one/too-many:1",
    ):
        assert named in refused.output, f"the report does not name {named}"
    assert refused.changed == 0, refused.changed_tasks()
    for host in [HEAD, *WORKERS]:
        assert bare.on(host, "find /var/snap /etc/microk8s.yaml /var/lib/gpuhub 2>/dev/null", check=False).split() in (
            [],
            ["/var/snap"],
        )


def test_deploys(runs, from_nothing):
    assert len(runs) == sample.size(4, 1), "a run came to its end before it was cut off"
    assert from_nothing.code == 0, from_nothing.output[-6000:]
    assert all(host["failed"] == host["unreachable"] == 0 for host in from_nothing.recap.values())


def test_summary_says_how_to_get_in(from_nothing):
    summary = from_nothing.output[-4000:]
    assert HUB in summary
    assert "admin" in summary
    assert "/var/lib/gpuhub/secrets/" in summary


def test_no_secret_is_printed(runs, deployment):
    names = deployment.on(HEAD, "ls /var/lib/gpuhub/secrets").split()
    assert names
    for name in names:
        assert not [run for run in runs if deployment.secret(name) in run.output], f"the output shows {name}"


def test_nothing_tried_to_leave(from_nothing, deployment):
    assert deployment.attempts() == {"lookups": [], "packets": []}


def test_what_tries_to_leave_is_counted(from_nothing, deployment):
    """The control of the test above: a look-up and an address, each from a host, the bastion and a pod."""
    lookups, packets = {}, {}
    script = "import socket,sys\ntry: socket.{}\nexcept OSError: pass"
    doors = {
        "host": lambda code: deployment.on(WORKERS[0], f"python3 -c '{code}'"),
        "bastion": lambda code: deployment.lab("run", "python3", "-c", code),
        "pod": lambda code: deployment.kubectl("-n", "jhub", "exec", "deploy/hub", "--", "python3", "-c", code),
    }
    for door, run in doors.items():
        deployment.attempts(reset=True)
        run(script.format(f'getaddrinfo("{door}.planted.example", 80)'))
        run(script.format(f'create_connection(("{NEVER_THERE}", 443), 2)'))
        found = deployment.attempts(reset=True)
        lookups[door] = [entry["name"].rstrip(".") for entry in found["lookups"]]
        packets[door] = [entry["destination"] for entry in found["packets"]]
    for door in doors:
        assert any(name.startswith(f"{door}.planted.example") for name in lookups[door]), (door, lookups)
        assert NEVER_THERE in packets[door], (door, packets)


def test_three_nodes_are_ready_and_workers_are_workers(from_nothing, deployment):
    nodes = {node["metadata"]["name"]: node for node in deployment.objects("nodes")}
    assert sorted(nodes) == [HEAD, *WORKERS]
    for name, node in nodes.items():
        ready = next(c for c in node["status"]["conditions"] if c["type"] == "Ready")
        assert ready["status"] == "True", (name, ready)
        assert ("node.kubernetes.io/microk8s-worker" in node["metadata"]["labels"]) == (name in WORKERS)


def test_images_are_on_the_data_disk_where_there_is_one(from_nothing, deployment):
    """worker2 has one: images unpack there, and nothing is where MicroK8s keeps them by itself."""
    snapshots = "containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
    disk, own = f"/var/snap/gpuhub-data/{snapshots}", f"/var/snap/microk8s/common/var/lib/{snapshots}"
    counted = {
        host: [int(deployment.on(host, f"ls {path} 2>/dev/null | wc -l")) for path in (disk, own)]
        for host in [HEAD, *WORKERS]
    }
    for host, (on_disk, elsewhere) in counted.items():
        assert (on_disk > 0, elsewhere > 0) == (host == WORKERS[1], host != WORKERS[1]), (host, counted)


def test_a_storage_class_that_is_not_there_is_named_before_any_change(from_nothing, deployment):
    refused = deployment.play("--check", "-e", "jupyterhub_home_storage_class=ceph-of-the-site")
    assert refused.code != 0
    assert refused.changed == 0, refused.changed_tasks()
    assert "name ceph-of-the-site, which the cluster does not have" in refused.output
    assert "gpuhub-home" in refused.output


def test_images_are_not_moved_under_what_runs(from_nothing, deployment):
    moved = deployment.play("-e", "microk8s_data_path=/var/snap/another")
    assert moved.code != 0
    assert moved.changed == 0, moved.changed_tasks()
    for folder in ("/var/snap/another/containerd", "/var/snap/gpuhub-data/containerd"):
        assert folder in moved.output


def test_a_notebooks_account_may_do_nothing(from_nothing, deployment):
    """403 for list, get and create in every namespace; the control is an account that is allowed to."""
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "x-"}, "spec": {"containers": []}}
    token = deployment.kubectl("-n", "jhub", "create", "token", "default").strip()
    admin = deployment.kubectl("create", "token", "-n", "kube-system", "calico-node").strip()
    api = "https://10.77.0.11:16443/api/v1"

    def status(bearer: str, path: str, *arguments: str) -> int:
        code, _ = deployment.http(f"{api}/{path}", "-k", "-H", f"Authorization: Bearer {bearer}", *arguments)
        return code

    namespaces = [item["metadata"]["name"] for item in deployment.objects("namespaces", "-A")]
    assert len(namespaces) >= 5
    paths = [f"namespaces/{ns}/{kind}" for ns in namespaces for kind in ("pods", "secrets")] + ["nodes"]
    body = ("-H", "Content-Type: application/json", "--data", json.dumps(manifest))
    refused = {}
    for path in paths:
        refused[f"list {path}"] = status(token, path)
        refused[f"get {path}"] = status(token, f"{path}/anything")
        refused[f"create {path}"] = status(token, path, *body)
    assert set(refused.values()) == {403}, {what: code for what, code in refused.items() if code != 403}
    assert status(admin, "nodes/head") == 200, "the control: an account with rights reads what it may"


def test_images_that_run_are_in_the_manifest(from_nothing, deployment):
    bundle = json.loads((CACHE / "bundle/manifest.json").read_text())
    known = {image["reference"] for image in bundle["images"]}
    running = {
        container["image"].partition("@")[0]
        for pod in deployment.objects("pods")
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", [])
    }
    assert running <= known


def test_the_hub_answers(from_nothing, deployment):
    status, body = wait_for("the hub's API", lambda: (r := deployment.http(f"{HUB}/hub/api"))[0] == 200 and r)
    assert status == 200
    assert "version" in json.loads(body)


def test_second_run_changes_nothing(from_nothing, deployment):
    again = deployment.play()
    assert again.code == 0, again.output[-6000:]
    assert again.changed == 0, again.changed_tasks()


def test_all_hosts_restart_and_the_hub_is_there_again(from_nothing, deployment):
    """To save a state is to shut all hosts down in order and to start them again. What was deployed is kept with it:
    other ways to get there are compared with it."""
    keep_outline(deployment)
    deployment.lab("save", "deployed")
    assert "deployed" in json.loads(deployment.lab("status", "--json"))["saves"]
    wait_for("everything runs again", deployment.works)
