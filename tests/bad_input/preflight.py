"""Hosts and inventories that the platform cannot be deployed on."""

from __future__ import annotations

from . import Fault, Groups, Refusal

HEAD, WORKER1, WORKER2 = "head.lab", "worker1.lab", "worker2.lab"


def _a_host_that_is_gone(groups: Groups) -> None:
    """Nobody listens on that port."""
    groups["workers"]["hosts"]["gone.lab"] = {"ansible_host": "10.77.0.13", "ansible_port": 2}


def _a_host_without_python(groups: Groups) -> None:
    groups["workers"]["hosts"]["bare.lab"] = {
        "ansible_host": "10.77.0.12",
        "ansible_python_interpreter": "/opt/python/bin/python3",
    }


def _a_group_misspelt(groups: Groups) -> None:
    groups["worker"] = {"hosts": {"lost.lab": {"ansible_host": "10.77.0.12"}}}


def _both(groups: Groups) -> None:
    groups["workers"]["hosts"].update(groups["head"]["hosts"])


FAULTS = [
    Fault(
        "an operating system of another kind",
        WORKER1,
        "os",
        "Fedora Linux 41 (Server Edition)",
        "Install one of these",
        plant="""
            printf 'ID=fedora\\nVERSION_ID=41\\nPRETTY_NAME="Fedora Linux 41 (Server Edition)"\\n' > /run/other-release
            mount --bind /run/other-release /usr/lib/os-release""",
        undo="umount /usr/lib/os-release; rm /run/other-release",
    ),
    Fault(
        "another program on the API server's port",
        HEAD,
        "port",
        "of other-api.service listens on 0.0.0.0:16443/tcp",
        "Stop what listens there",
        plant="""
            systemd-run -q --unit=other-api python3 -m http.server 16443 --directory /run/systemd
            until ss -Hltn sport = 16443 | grep -q LISTEN; do sleep 0.1; done""",
        undo="systemctl stop other-api",
    ),
    Fault(
        "another Kubernetes",
        WORKER2,
        "kubernetes",
        "k3s: /usr/local/bin/k3s, /etc/rancher/k3s",
        "k3s-uninstall.sh",
        plant="touch /usr/local/bin/k3s; mkdir -p /etc/rancher/k3s; touch /etc/rancher/k3s/k3s.yaml",
        undo="rm -r /usr/local/bin/k3s /etc/rancher",
    ),
    Fault(
        "the pods' network in use at the site",
        HEAD,
        "network-overlap",
        "route to 10.1.50.0/24",
        "microk8s_pod_cidr",
        plant="ip route add 10.1.50.0/24 via 10.77.0.1",
        undo="ip route del 10.1.50.0/24",
    ),
    Fault(
        "a host name with an underscore",
        WORKER1,
        "host-name",
        "'gpu_1'",
        "hostnamectl",
        # The command refuses what the kernel and cloud images do not.
        plant="echo gpu_1 >/proc/sys/kernel/hostname",
        undo="hostname worker1",
    ),
    Fault(
        "two hosts of one name",
        WORKER2,
        "host-name-duplicate",
        "'head' is the name of head.lab too",
        "hostnamectl",
        plant="hostname head",
        undo="hostname worker2",
    ),
    Fault(
        "shared storage that is not mounted on one node",
        WORKER1,
        "shared-storage",
        "/mnt/shared is a folder of the host's own disk",
        "Mount it",
        plant="mkdir /run/kept; mount --bind /mnt/shared /run/kept; umount /mnt/shared",
        undo="mount --bind /run/kept /mnt/shared; umount /run/kept; rmdir /run/kept",
    ),
    Fault(
        "other storage mounted on one node",
        WORKER2,
        "shared-storage-different",
        "tmpfs (tmpfs) at /mnt/shared; head.lab has",
        "findmnt",
        plant="mount -t tmpfs tmpfs /mnt/shared",
        undo="umount /mnt/shared",
    ),
    Fault(
        "a host that cannot be reached",
        "gone.lab",
        "unreachable",
        "Connection refused",
        "ansible_host",
        groups=_a_host_that_is_gone,
    ),
    Fault(
        "a host without Python",
        "bare.lab",
        "unreadable",
        "/opt/python/bin/python3",
        "ansible_python_interpreter",
        groups=_a_host_without_python,
    ),
    Fault(
        "a host in both groups",
        HEAD,
        "inventory-both",
        "in head and in workers",
        "Remove the host from group workers",
        groups=_both,
    ),
    Fault(
        "a group misspelt",
        "inventory",
        "inventory-group",
        "group worker with lost.lab",
        "Rename the group",
        groups=_a_group_misspelt,
    ),
    Fault(
        "too small a disk",
        WORKER1,
        "disk",
        "GB at /var/snap",
        "preflight_min_disk_gb",
        arguments=("-e", "preflight_min_disk_gb=1000000"),
    ),
    Fault(
        "too little memory",
        HEAD,
        "memory",
        "GiB",
        "preflight_min_memory_gib",
        arguments=("-e", "preflight_min_memory_gib=50000"),
    ),
    Fault(
        "an accepted check that does not exist",
        "inventory",
        "accept",
        "preflight_accept: swpa",
        "docs/troubleshooting.md",
        arguments=("-e", '{"preflight_accept": ["swpa"]}'),
    ),
]


def _no_head(groups: Groups) -> None:
    del groups["head"]


def _three_heads(groups: Groups) -> None:
    groups["head"]["hosts"].update(groups.pop("workers")["hosts"])


def _nobody(groups: Groups) -> None:
    groups["servers"] = {"hosts": {**groups.pop("head")["hosts"], **groups.pop("workers")["hosts"]}}


REFUSALS = [
    Refusal("no head", ("inventory-head", "no host", "Name one host in group head"), groups=_no_head),
    Refusal(
        "three heads",
        ("inventory-head", "3 hosts: head.lab, worker1.lab, worker2.lab", "the others in group workers"),
        groups=_three_heads,
    ),
    Refusal(
        "none of our groups",
        (
            "inventory-head",
            "no host, but in servers",
            "inventory-group",
            "group servers with head.lab",
            "head or workers",
        ),
        groups=_nobody,
    ),
]
