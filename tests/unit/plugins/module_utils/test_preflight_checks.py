"""What facts come to: single hosts, several hosts, the inventory, the report."""

from __future__ import annotations

import json

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import preflight_cluster as cluster
from ansible_collections.gpuhub.platform.plugins.module_utils import preflight_report as report
from ansible_collections.gpuhub.platform.plugins.module_utils.preflight_checks import Needs, Port, check_host, version
from ansible_collections.gpuhub.platform.plugins.module_utils.preflight_findings import (
    CHECKS,
    finding,
    from_dict,
    markdown,
)

from .recorded import SHARED, Recorded

NEEDS = Needs(
    single=False,
    min_cpus=4,
    min_memory_gib=16,
    min_disk_gb=100,
    min_free_disk_gb=40,
    min_kernel="5.10",
    min_driver="535",
    gpu=False,
    rdma=False,
    networks={"microk8s_pod_cidr": "10.1.0.0/16", "microk8s_service_cidr": "10.152.183.0/24"},
    ports=(
        Port(16443, "tcp", "the API server"),
        Port(4789, "udp", "the pods' network"),
        Port(443, "tcp", "HTTPS", ("nginx.service",)),
    ),
    microk8s_oldest="1.30",
    microk8s_end_of_life=("1.30", "1.31"),
)


@pytest.fixture
def facts(tmp_path):
    """Facts of a recorded host, with some of them changed."""

    def read(name, shared="", **changes):
        read.count += 1
        return {**Recorded(tmp_path / f"{name}{read.count}", name).facts(shared), **changes}

    read.count = 0
    return read


def said(findings):
    """What was found as (name, severity) -> text, several texts with semicolons between."""
    texts = {}
    for one in findings:
        texts.setdefault((one.name, one.severity), []).append(one.found)
    return {key: "; ".join(found) for key, found in texts.items()}


def check(facts, **needs):
    return said(check_host(facts, NEEDS._replace(**needs)))


def test_nothing_to_say_of_a_good_server(facts):
    assert check(facts("bare")) == {}


def test_a_gpu_server(facts):
    assert check(facts("h100", SHARED), gpu=True, rdma=True) == {
        ("gpu", "info"): "2 x NVIDIA H100 80GB HBM3, driver 580.65.06",
        ("rdma", "info"): "mlx5_0 port 1: InfiniBand, 400 Gb/sec (4X NDR)",
        ("rdma-port", "warning"): "mlx5_1 port 1 is INIT (InfiniBand)",
    }


def test_an_old_server(facts):
    assert check(facts("v100"), rdma=True) == {
        ("kernel-module", "error"): "kernel 5.10.0-32-amd64 lacks br_netfilter",
        ("cgroup-controllers", "error"): "version 1 without memory",
        ("cgroup-v1", "warning"): "version 1",
        ("snapd", "error"): "no snap command",
        ("swap", "warning"): "8.0 GiB of swap",
        ("inotify", "warning"): "fs.inotify.max_user_instances = 128, fs.inotify.max_user_watches = 8192",
        ("aio", "warning"): "65000 of 65536 in use",
        ("host-name", "error"): "'Volta_1'",
        ("forward-policy", "warning"): "policy DROP",
        ("kubelet-folder", "warning"): "a folder that is not empty",
        ("docker", "warning"): "dockerd is installed",
        ("gpu", "info"): "2 x Tesla V100-SXM2-32GB, driver 470.256.02",
        ("gpu-driver", "error"): "470.256.02; Failed to initialize NVML: Driver/library version mismatch",
        ("gpu-missing", "warning"): "1 of 2 GPUs, with the proprietary kernel module 470.256.02",
        ("rdma-driver", "warning"): "1 cards, no RDMA device",
        ("rdma-required", "error"): "no active port",
    }


def test_all_that_can_be_wrong_is_said_at_once(facts):
    assert check(facts("rhel", "/var/shared"), gpu=True) == {
        ("root", "error"): "user number 1000",
        ("python", "error"): "3.8.1",
        ("os", "error"): "Rocky Linux 9.4 (Blue Onyx)",
        ("architecture", "error"): "aarch64",
        ("systemd", "error"): "something else",
        ("kernel", "error"): "4.18.0",
        ("kernel-module", "error"): "kernel 4.18.0 lacks overlay, br_netfilter, nf_conntrack, vxlan",
        ("cpus", "error"): "1",
        ("memory", "error"): "1.7 GiB",
        ("host-name", "error"): "'localhost'",
        ("own-name", "warning"): "'localhost' does not resolve",
        ("default-route", "error"): "none",
        ("network-overlap", "error"): "route to 10.1.0.0/16 by eth0 overlaps microk8s_pod_cidr 10.1.0.0/16",
        ("port", "error"): "k3s-server (process 840) of k3s.service listens on 0.0.0.0:16443/tcp; "
        "the kernel (a tunnel or a file server) listens on 0.0.0.0:4789/udp",
        ("image-store", "error"): "nfs4 file system noexec",
        ("mount-options", "warning"): "/var/snap lies on a mount with nodev, nosuid; "
        "/var/lib lies on a mount with nodev, nosuid",
        ("shared-storage", "error"): "/var/shared: No such file or directory: '/var/shared'",
        ("kubernetes", "error"): "k3s: /usr/local/bin/k3s",
        ("gpu-required", "error"): "no NVIDIA GPU",
    }


def system(name, release):
    return {"id": name, "version": release, "name": f"{name} {release}", "systemd": True}


def with_(facts, path, value):
    """Facts with one of them changed, named by keys with dots between."""
    first, _, rest = path.partition(".")
    return {**facts, first: with_(facts[first], rest, value) if rest else value}


@pytest.mark.parametrize(
    ("path", "value", "name", "severity", "found"),
    [
        (
            "system",
            {"id": "ubuntu", "version": "20.04", "name": "Ubuntu 20.04", "systemd": True},
            "os",
            "error",
            "20.04",
        ),
        ("system", {"id": "debian", "version": "10", "name": "Debian 10", "systemd": True}, "os", "error", "Debian 10"),
        ("system", {"id": "debian", "version": "", "name": "Debian sid", "systemd": True}, "os", "error", "Debian sid"),
        ("system.version", "24.10", "os-untested", "warning", "24.04.1"),
        (
            "system",
            {"id": "debian", "version": "14", "name": "Debian 14", "systemd": True},
            "os-untested",
            "warning",
            "14",
        ),
        ("python", "3.8.10", "python", "error", "3.8.10"),
        ("kernel", "5.4.0-200-generic", "kernel", "error", "5.4.0"),
        ("cpus", 3, "cpus", "error", "3"),
        ("memory", 14 * 2**30, "memory", "error", "14.0 GiB"),
        ("image_store.size", 91 * 10**9, "disk", "error", "91 GB at /var/snap"),
        ("image_store.free", 39 * 10**9, "disk-free", "error", "39 GB free at /var/snap"),
        ("image_store.type", "overlay", "image-store", "error", "overlay"),
        ("image_store.flags", ["noexec"], "image-store", "error", "xfs file system noexec"),
        ("mount_flags", {"/snap": ["nodev"]}, "mount-options", "warning", "/snap lies on a mount with nodev"),
        ("host_name", "gpu_1", "host-name", "error", "'gpu_1'"),
        ("host_name", "g" * 64, "host-name", "error", "'ggg"),
        ("host_name", "-gpu", "host-name", "error", "'-gpu'"),
        ("host_name", "gpu1.", "host-name", "error", "'gpu1.'"),
        ("host_name", "GPU1", "host-name-case", "warning", "'GPU1'"),
        ("own_name", ["203.0.113.9"], "own-name", "warning", "203.0.113.9, which is not this host's"),
        ("forward_policy", "DROP", "forward-policy", "warning", "DROP"),
        ("microk8s", {"version": "1.34.1", "ours": False}, "microk8s-foreign", "error", "MicroK8s 1.34.1"),
        ("microk8s", {"version": "1.29.9", "ours": True}, "microk8s-version", "error", "1.29.9"),
        ("microk8s", {"version": "1.31.2", "ours": True}, "microk8s-end-of-life", "warning", "1.31.2"),
        ("addresses", ["192.168.0.21", "10.1.3.4"], "network-overlap", "error", "own address 10.1.3.4"),
        ("reached", {"10.152.183.7": "name server"}, "network-overlap", "error", "name server 10.152.183.7"),
    ],
)
def test_one_thing_is_wrong(facts, path, value, name, severity, found):
    findings = check(with_(facts("bare"), path, value))
    assert list(findings) == [(name, severity)]
    assert found in findings[name, severity]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("system", system("debian", "13")),
        ("system", system("ubuntu", "22.04")),
        ("memory", 15 * 2**30),
        ("image_store.size", 93 * 10**9),
        ("host_name", "gpu-1.example.com"),
        ("own_name", ["127.0.1.1"]),
        ("microk8s", {"version": "1.34.3", "ours": True}),
        ("forward_policy", ""),
        ("limits", {"inotify_instances": None, "inotify_watches": None, "aio_most": None, "aio_used": None}),
    ],
)
def test_what_is_good_enough(facts, path, value):
    assert check(with_(facts("bare"), path, value)) == {}


def socket(port, process="other (process 9)", unit="/system.slice/other.service", protocol="tcp"):
    return {"protocol": protocol, "address": "0.0.0.0", "port": port, "process": process, "unit": unit}


OURS = {"version": "1.34.3", "ours": True}


@pytest.mark.parametrize(
    ("listener", "microk8s", "found"),
    [
        (socket(16443), None, "other (process 9) of other.service listens on 0.0.0.0:16443/tcp"),
        (socket(16443), OURS, "other (process 9)"),
        (socket(16443, unit="/system.slice/snap.microk8s.daemon-kubelite.service"), OURS, None),
        (socket(16443, unit="/kubepods.slice/kubepods-pod1.slice/cri-containerd-2.scope"), OURS, None),
        (socket(16443, unit="/kubepods.slice/kubepods-pod1.slice/cri-containerd-2.scope"), None, "cri-containerd-2"),
        (socket(4789, process="", unit="", protocol="udp"), OURS, None),
        (socket(4789, process="", unit="", protocol="udp"), None, "the kernel"),
        (socket(4789), None, None),
        (socket(443, unit="/system.slice/nginx.service"), None, None),
        (socket(443, unit="/system.slice/apache2.service"), None, "apache2.service"),
    ],
)
def test_ports(facts, listener, microk8s, found):
    findings = check({**facts("bare"), "listeners": [listener], "microk8s": microk8s})
    assert (found in findings["port", "error"]) if found else findings == {}


def route(net, interface):
    return {"network": net, "interface": interface, "gateway": ""}


def test_our_own_network_does_not_overlap_with_itself(facts):
    bare = facts("bare")
    own = [route("10.1.7.0/26", "*"), route("10.1.7.3/32", "cali1234"), route("10.1.9.0/26", "vxlan.calico")]
    bare["routes"] = [*bare["routes"], *own]
    bare["addresses"] = [*bare["addresses"], "10.1.7.0"]
    assert check({**bare, "microk8s": OURS}) == {}
    assert ("network-overlap", "error") in check(bare)
    bare["routes"] = [*bare["routes"], route("10.1.200.0/24", "eno2")]
    assert "10.1.200.0/24 by eno2" in check({**bare, "microk8s": OURS})["network-overlap", "error"]


@pytest.mark.parametrize(
    ("driver", "device", "wrong"),
    [("580.65.06", "0x1db5", ""), ("590.10", "0x1db5", "590.10, which knows no"), ("590.10", "0x2330", ""),
     ("530.30.02", "0x2330", "530.30.02")],
)  # fmt: skip
def test_drivers(facts, driver, device, wrong):
    host = facts("h100")
    devices = [{**one, "device": device} for one in host["gpus"]["devices"]]
    findings = check({**host, "gpus": {**host["gpus"], "driver": driver, "devices": devices}})
    assert wrong in findings[("gpu-driver", "error")] if wrong else ("gpu-driver", "error") not in findings


def test_a_gpu_for_a_virtual_machine_is_none_of_ours(facts):
    host = facts("h100")
    first, second = host["gpus"]["devices"]
    host["gpus"] = {**host["gpus"], "devices": [first, {**second, "driver": "vfio-pci"}], "models": ["H100"]}
    assert check(host)["gpu", "info"] == "1 x H100, driver 580.65.06"
    assert ("gpu-missing", "warning") not in check(host)


def test_an_ethernet_port_without_a_cable(facts):
    port = {"port": "1", "layer": "Ethernet", "state": "DOWN", "rate": "40 Gb/sec"}
    rdma = {"cards": [], "devices": [{"name": "mlx5_2", "ports": [port]}]}
    assert check({**facts("bare"), "rdma": rdma}) == {("rdma-port", "info"): "mlx5_2 port 1 is DOWN (Ethernet)"}


def test_no_driver(facts):
    host = facts("h100")
    gpus = {**host["gpus"], "driver": "", "models": [], "smi": {}, "nouveau": True}
    findings = check({**host, "gpus": gpus})
    assert findings["gpu", "info"] == "2 x PCI device 10de:2330, driver none"
    assert {("gpu-driver-missing", "warning"), ("gpu-nouveau", "warning")} <= set(findings)


def test_less_room_where_the_images_are_is_a_warning(facts):
    bare = with_({**facts("bare"), "microk8s": OURS}, "image_store.free", 10**9)
    assert list(check(bare)) == [("disk-free", "warning")]


@pytest.mark.parametrize(
    ("changes", "single", "expected"),
    [
        ({"mount": "/"}, False, ("shared-storage", "error")),
        ({"mount": "/"}, True, ("shared-storage", "warning")),
        ({"flags": ["ro"]}, False, ("shared-storage-write", "error")),
        ({"problem": "a file that root makes belongs to user 65534 (root_squash)"}, False,
         ("shared-storage-write", "error")),
        ({"flags": ["noexec"]}, False, ("shared-storage-noexec", "warning")),
        ({"there": False, "problem": "no answer within 15 s"}, False, ("shared-storage", "error")),
    ],
)  # fmt: skip
def test_shared_storage(facts, changes, single, expected):
    host = {**facts("h100", SHARED), "gpus": {"devices": [], "driver": ""}, "rdma": {"cards": [], "devices": []}}
    assert list(check({**host, "shared": {**host["shared"], **changes}}, single=single)) == [expected]


# Several hosts


@pytest.fixture
def hosts(facts):
    """Three hosts that fit together, by name."""
    made = {}
    for number, name in enumerate(("head", "gpu1", "gpu2")):
        one = facts("h100", SHARED, host_name=name, machine_id=f"id-{number}", addresses=[f"192.168.0.{number + 11}"])
        made[name] = cluster.Seen(one, (), (0.0, 0.4))
    return made


def together(hosts, shared=SHARED):
    found = cluster.check_cluster(hosts, "head", shared, 30)
    return [(one.host, one.finding.name, one.finding.found) for one in found]


def change(hosts, name, **changes):
    return {**hosts, name: hosts[name]._replace(facts={**hosts[name].facts, **changes})}


def test_hosts_that_fit_together(hosts):
    assert together(hosts) == []


def test_names_addresses_and_copies(hosts):
    same = change(hosts, "gpu2", host_name="GPU1", machine_id="id-1", addresses=["192.168.0.12", "172.17.0.1"])
    assert together(same) == [
        ("gpu2", "host-name-duplicate", "'gpu1' is the name of gpu1 too"),
        ("gpu2", "address-duplicate", "192.168.0.12 is the address of gpu1 too"),
        ("gpu2", "machine-id-duplicate", "id-1 is that of gpu1 too"),
    ]


def test_an_address_of_a_container_bridge_may_be_shared(hosts):
    for name in hosts:
        hosts = change(hosts, name, addresses=[*hosts[name].facts["addresses"], "172.17.0.1"])
    assert together(hosts) == []


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ({"gpu1": (100.0, 100.5)}, [("gpu1", "clock-skew", "100 s ahead of head")]),
        ({"gpu1": (-45.5, -45.0)}, [("gpu1", "clock-skew", "45 s behind head")]),
        # A slow way to the host is no skew.
        ({"gpu1": (-90.0, 1.0)}, []),
        ({name: (50.0, 50.5) for name in ("head", "gpu1", "gpu2")},
         [("head", "clock-control", "50 s ahead of the control node")]),
        ({"gpu1": (29.0, 29.5)}, []),
        # The head's clock is known to 0.4 s only, so this may be 29.8 s.
        ({"gpu1": (30.2, 30.9)}, []),
    ],
)  # fmt: skip
def test_clocks(hosts, offsets, expected):
    for name, offset in offsets.items():
        hosts[name] = hosts[name]._replace(offset=offset)
    assert together(hosts) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"inode": 7}, "shared-storage-different"),
        ({"fsid": 8, "source": "/dev/sdb1"}, "shared-storage-different"),
        ({"source": "192.168.0.6:6789,192.168.0.5:6789:/"}, "shared-storage-source"),
        ({"source": "192.168.0.5:6789:/another/name/of/it"}, "shared-storage-source"),
        ({"mount": "/mnt"}, None),
    ],
)
def test_storage_of_two_hosts(hosts, changes, expected):
    found = together(change(hosts, "gpu2", shared={**hosts["gpu2"].facts["shared"], **changes}))
    assert [(host, name) for host, name, _ in found] == ([("gpu2", expected)] if expected else [])


NFS = {"type": "nfs4", "fsid": 0, "inode": 128, "bytes": 10**12, "source": "files:/export/hub", "root": "/"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"source": "10.9.8.7:/export/hub"}, ["shared-storage-source"]),
        ({"source": "files:/export/other"}, ["shared-storage-different"]),
        ({"source": "files2:/export/hub", "bytes": 2 * 10**12}, ["shared-storage-different"]),
    ],
)
def test_nfs_exports_have_no_identifier(hosts, changes, expected):
    for name in hosts:
        hosts = change(hosts, name, shared={**hosts[name].facts["shared"], **NFS})
    hosts = change(hosts, "gpu2", shared={**hosts["gpu2"].facts["shared"], **changes})
    assert [name for _, name, _ in together(hosts)] == expected


def test_hosts_without_storage_do_not_hide_another_that_differs(hosts):
    gone = {"there": False, "problem": "gone"}
    hosts = change(hosts, "head", shared={**hosts["head"].facts["shared"], **gone})
    hosts = change(hosts, "gpu2", shared={**hosts["gpu2"].facts["shared"], "inode": 9})
    assert [(host, name) for host, name, _ in together(hosts)] == [("gpu2", "shared-storage-different")]


def test_hosts_that_were_not_seen(hosts):
    hosts["gpu1"] = cluster.Seen(None, unreachable="No route to host")
    hosts["gpu2"] = cluster.Seen(None, failed="sudo: a password is required")
    assert together(hosts) == [
        ("gpu1", "unreachable", "No route to host"),
        ("gpu2", "unreadable", "sudo: a password is required"),
    ]


def test_workers_without_shared_storage(hosts):
    assert [name for _, name, _ in together(hosts, shared="")] == ["no-shared-storage"]
    del hosts["gpu2"]
    assert together(hosts, shared="") == []


# The inventory


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"head": ["a"], "workers": ["b"]}, []),
        ({"head": ["a"]}, []),
        ({}, [("inventory", "inventory-head", "no host")]),
        ({"head": [], "workers": ["b"]}, [("inventory", "inventory-head", "no host")]),
        ({"head": ["a", "b", "c"]}, [("inventory", "inventory-head", "3 hosts: a, b, c")]),
        ({"head": ["a"], "workers": ["a", "b"]}, [("a", "inventory-both", "in head and in workers")]),
        ({"head": ["a"], "worker": ["b"]}, [("inventory", "inventory-group", "group worker with b")]),
        ({"head": ["a"], "wrokers": ["b"]}, [("inventory", "inventory-group", "group wrokers with b")]),
        ({"head": ["a"], "GPU-Nodes": ["b"]}, [("inventory", "inventory-group", "group GPU-Nodes with b")]),
        ({"head": ["a"], "our_workers": ["b"]}, [("inventory", "inventory-group", "group our_workers with b")]),
        (
            {"servers": ["a"]},
            [
                ("inventory", "inventory-head", "no host, but in servers"),
                ("inventory", "inventory-group", "group servers with a"),
            ],
        ),
        ({"head": ["a"], "workers": ["b"], "nodes": ["a", "b"]}, []),
        ({"head": ["a"], "workers": ["b"], "rack1": ["b"], "databases": ["c"]}, []),
        ({"head": ["a"], "workers": ["b"], "node": []}, []),
    ],
)
def test_groups(groups, expected):
    everything = {"all": ["a", "b", "c"], "ungrouped": ["c"], **groups}
    found = cluster.check_inventory(everything, tls=True)
    assert [(one.host, one.finding.name, one.finding.found) for one in found] == expected


def test_passwords_in_clear_text():
    found = cluster.check_inventory({"head": ["a"]}, tls=False)
    assert [(one.finding.name, one.finding.severity) for one in found] == [("clear-text", "warning")]


@pytest.mark.parametrize(
    ("accept", "needed"),
    [
        (["port", "disk"], []),
        (["swpa"], ["such as swap"]),
        (["inventory-head"], ["can be accepted"]),
        ([""], ["a check"]),
    ],
)
def test_accepted_names(accept, needed):
    found = cluster.check_accepted(accept)
    assert [one.finding.name for one in found] == ["accept"] * len(needed)
    assert all(text in one.finding.needed for text, one in zip(needed, found, strict=True))


# The report


def host_finding(name, host="gpu1", found="this", severity=""):
    return cluster.HostFinding(host, finding(name, "subject", found, severity=severity))


def test_errors_stop_and_come_first():
    made = report.make_report([host_finding("gpu"), host_finding("swap"), host_finding("port")], [], 2)
    assert made.stops
    assert [one.finding.name for one in made.findings] == ["port", "swap", "gpu"]
    assert made.summary == "2 hosts: 1 error, 1 warning"


def test_accepted_errors_do_not_stop():
    made = report.make_report([host_finding("port"), host_finding("swap")], ["port", "swap"], 1)
    assert not made.stops
    assert made.summary == "1 host: 1 warning, 1 accepted"
    assert "accepted" in report.text(made, ("accepted",))


def test_nothing_found():
    assert report.text(report.make_report([], [], 3), ("error",)) == "3 hosts: all is well"


def test_a_table_has_every_word_and_one_row_for_hosts_alike():
    found = [host_finding("swap", "gpu1"), host_finding("swap", "gpu2"), host_finding("port", "gpu2", "x" * 60)]
    lines = report.table(report.make_report(found, [], 2).findings).splitlines()
    assert lines[0].split() == ["SEVERITY", "CHECK", "HOST", "FOUND", "NEEDED", "CURE"]
    assert any("gpu1, gpu2" in line for line in lines)
    assert any("x" * 60 in line for line in lines), "a word is never cut"
    assert all(line == line.rstrip() for line in lines)
    assert sum(line.startswith(("warning", "error")) for line in lines) == 2


def test_json_has_facts_and_findings(hosts):
    hosts["gpu1"] = cluster.Seen(None, unreachable="gone")
    made = report.make_report(cluster.check_cluster(hosts, "head", SHARED, 30), [], 3)
    document = json.loads(json.dumps(report.as_json(made, hosts)))
    assert document["ok"] is False
    assert document["hosts"]["gpu1"] is None
    assert document["hosts"]["head"]["system"]["id"] == "ubuntu"
    assert document["findings"][0] == {"host": "gpu1", **from_dict(document["findings"][0])._asdict()}
    assert document["findings"][0]["cure"]


# The catalogue


def test_every_check_has_a_cure_and_a_row_in_the_documentation():
    for name, check in CHECKS.items():
        assert check.about.endswith("."), name
        assert (check.needed and check.cure.endswith((".", ")"))) or check.severity == "info", name
        assert f"| `{name}` |" in markdown()


def test_texts_of_others_cannot_drive_a_terminal():
    assert finding("port", "\x1b[2J", "\x1b]0;x\x07 (process 1)").found == "?]0;x? (process 1)"


def test_versions():
    assert version("6.8.0-45-generic") == (6, 8, 0)
    assert version("v1.34.3") == (1, 34, 3)
    assert version("") == version("sid") == ()
