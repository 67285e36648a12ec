"""What is read of a host: recorded ones, and this machine."""

from __future__ import annotations

import itertools
import os

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils.preflight_host import Source, mount_of, read_mounts

from .recorded import SHARED, Recorded


@pytest.fixture
def host(tmp_path):
    """A recorded host, laid out anew each time."""
    numbers = itertools.count()
    return lambda name, **changes: Recorded(tmp_path / f"{name}-{next(numbers)}", name, **changes)


def test_a_server_without_anything(host):
    facts = host("bare").facts()
    assert facts["system"] == {"id": "ubuntu", "version": "24.04", "name": "Ubuntu 24.04.1 LTS", "systemd": True}
    assert facts["cgroup"]["version"] == 2
    assert "cpuset" in facts["cgroup"]["controllers"]
    assert (facts["cpus"], facts["memory"], facts["swap"]) == (4, 16087216 * 1024, 0)
    assert facts["image_store"]["mount"] == "/var/snap"
    assert facts["image_store"]["type"] == "xfs"
    assert facts["image_store"]["size"] == 950 * 10**9
    assert all(facts["kernel_modules"].values())
    assert facts["addresses"] == ["192.168.0.21"]
    assert facts["routes"] == [
        {"network": "0.0.0.0/0", "interface": "eno1", "gateway": "192.168.0.1"},
        {"network": "192.168.0.0/24", "interface": "eno1", "gateway": ""},
    ]
    assert facts["own_name"] == ["192.168.0.21"]
    assert facts["microk8s"] is None
    assert facts["kubernetes"] == []
    assert facts["gpus"]["devices"] == []
    assert facts["shared"] is None


def test_listeners_and_who_they_are(host):
    listeners = {socket["port"]: socket for socket in host("bare").facts()["listeners"]}
    assert sorted(listeners) == [22, 53], "a connection is no listener"
    assert listeners[53]["address"] == "127.0.0.53"
    assert listeners[22] == {
        "protocol": "tcp",
        "address": "::",
        "port": 22,
        "process": "sshd (process 612)",
        "unit": "/system.slice/ssh.service",
    }


def test_gpus_and_infiniband(host):
    facts = host("h100").facts(SHARED)
    gpus = facts["gpus"]
    assert [device["slot"] for device in gpus["devices"]] == ["0000:1b:00.0", "0000:43:00.0"], "NVSwitch is no GPU"
    assert (gpus["driver"], gpus["open"], gpus["models"]) == ("580.65.06", True, ["NVIDIA H100 80GB HBM3"] * 2)
    assert gpus["smi"]["code"] == 0
    assert [device["name"] for device in facts["rdma"]["devices"]] == ["mlx5_0", "mlx5_1"]
    assert facts["rdma"]["devices"][0]["ports"] == [
        {"port": "1", "layer": "InfiniBand", "state": "ACTIVE", "rate": "400 Gb/sec (4X NDR)"}
    ]
    assert len(facts["rdma"]["cards"]) == 2


def test_shared_storage(host):
    shared = host("h100").facts(SHARED)["shared"]
    assert (shared["mount"], shared["type"], shared["root"]) == (SHARED, "ceph", "/gpu hub")
    assert shared["there"]
    assert host("h100").facts(f"{SHARED}/deeper")["shared"]["mount"] == SHARED
    assert not host("bare").facts(SHARED)["shared"]["there"]
    assert host("h100").facts()["reached"]["192.168.0.6"] == "file server of /mnt/shared"


def test_an_old_driver_and_cgroup_v1(host):
    facts = host("v100").facts()
    assert facts["cgroup"] == {"version": 1, "controllers": ["cpu", "cpuset", "pids"]}
    assert (facts["gpus"]["driver"], facts["gpus"]["open"]) == ("470.256.02", False)
    assert facts["gpus"]["smi"]["code"] == 18
    assert not facts["kernel_modules"]["br_netfilter"]
    assert facts["kubelet_folder"]


@pytest.mark.parametrize(
    ("files", "links", "expected"),
    [
        ({}, {"/snap/microk8s/current": "x1"}, {"version": "", "ours": False}),
        (
            {"/snap/microk8s/current/meta/snap.yaml": "name: microk8s\nversion: v1.34.3\n"},
            {},
            {"version": "1.34.3", "ours": False},
        ),
        (
            {"/snap/microk8s/current/meta/snap.yaml": '{\n  "name": "microk8s",\n  "version": "v1.34.4"\n}'},
            {},
            {"version": "1.34.4", "ours": False},
        ),
        (
            {"/var/snap/microk8s/current/args/kubelet": "", "/etc/microk8s.yaml": "version: 0.2.0"},
            {},
            {"version": "", "ours": True},
        ),
        ({"/etc/microk8s.yaml": "version: 0.2.0"}, {}, None),
    ],
)
def test_microk8s(host, files, links, expected):
    assert host("bare", files=files, links=links).facts()["microk8s"] == expected


def test_an_empty_folder_is_no_kubernetes(host):
    source = host("bare")
    source.path("/etc/kubernetes/manifests").mkdir(parents=True)
    assert source.facts()["kubernetes"] == []
    source.path("/etc/kubernetes/manifests/etcd.yaml").write_text("")
    assert source.facts()["kubernetes"] == [{"product": "kubeadm", "evidence": "/etc/kubernetes/manifests"}]


def test_the_last_mount_at_a_place_is_the_one_seen(host):
    lines = (
        "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "25 24 8:2 / /mnt/shared rw - ext4 /dev/sdb1 rw\n"
        "26 25 0:9 / /mnt/shared ro,noexec - nfs files:/export rw,addr=10.2.0.1\n"
        "27 24 8:3 / /mnt/sharedness rw - ext4 /dev/sdc1 rw\n"
    )
    source = host("bare", files={"/proc/self/mountinfo": lines})
    assert mount_of(read_mounts(source), "/mnt/shared/x").source == "files:/export"
    assert mount_of(read_mounts(source), "/mnt/shared").flags() == ["noexec", "ro"]
    assert mount_of(read_mounts(source), "/mnt").point == "/"
    assert source.facts()["reached"] == {"10.2.0.1": "file server of /mnt/shared"}


def test_a_host_that_shows_nothing_is_read_all_the_same(tmp_path, host):
    source = host("bare")
    source.root = tmp_path / "nothing"
    facts = source.facts(SHARED)
    assert facts["system"]["name"] == "unknown"
    assert (facts["cpus"], facts["memory"], facts["routes"], facts["listeners"]) == (0, 0, [], [])


class TestThisMachine:
    """What recordings cannot show."""

    def test_a_folder_is_tried_and_left_as_it_was(self, tmp_path):
        tried = Source().try_folder(str(tmp_path), write=True)
        assert tried["there"]
        assert tried["inode"] == tmp_path.stat().st_ino
        assert os.geteuid() or tried["problem"] == ""
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_is_not_there(self, tmp_path):
        tried = Source().try_folder(str(tmp_path / "no"), write=False)
        assert not tried["there"]
        assert "No such file" in tried["problem"]

    def test_a_command_that_does_not_end_is_left(self, monkeypatch):
        monkeypatch.setattr("ansible_collections.gpuhub.platform.plugins.module_utils.preflight_host.PATIENCE", 0.05)
        assert Source().run("sleep", "30") == (124, "no answer within 0.05 s")

    def test_a_command_that_is_not_there(self):
        assert Source().run("gpuhub-no-such-command") == (127, "")

    def test_space_of_a_folder_yet_to_come(self, tmp_path, monkeypatch):
        # One reading for both: others write to this disk.
        size = os.statvfs(tmp_path)
        monkeypatch.setattr(os, "statvfs", {tmp_path: size}.__getitem__)
        assert Source().space(f"{tmp_path}/not/yet") == (size.f_frsize * size.f_blocks, size.f_frsize * size.f_bavail)
