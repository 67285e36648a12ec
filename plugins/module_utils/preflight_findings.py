"""What preflight can find: every check by name, with how bad it is, what is needed and the cure. Standard library only.

docs/troubleshooting.md holds this table; tests/lint/troubleshooting.py compares the two.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, NamedTuple

ERROR, WARNING, INFO = "error", "warning", "info"


class Check(NamedTuple):
    """A check: its usual severity, what it is about, what is needed and what to do, as administrators read it."""

    severity: str
    about: str
    needed: str
    cure: str
    # Whether preflight_accept may name it: what cannot work at all cannot be accepted.
    acceptable: bool = True


class Finding(NamedTuple):
    """What one check found on one host or in the inventory."""

    name: str
    severity: str
    subject: str
    found: str
    needed: str
    cure: str


# Order: as the report and the documentation list them.
CHECKS: dict[str, Check] = {
    # The inventory
    "inventory-head": Check(
        ERROR,
        "Group `head` of the inventory has no host, or several: several heads are not supported yet.",
        "exactly one host in group head",
        "Name one host in group head and the others in group workers; a single server is a head without workers.",
        acceptable=False,
    ),
    "inventory-both": Check(
        ERROR,
        "A host is in both groups.",
        "each host in one of the groups head and workers",
        "Remove the host from group workers: on a single server the head runs notebooks too.",
        acceptable=False,
    ),
    "inventory-group": Check(
        ERROR,
        "A group whose name looks like one of ours, but is not: nothing would run on its hosts.",
        "groups named head and workers",
        "Rename the group in the inventory, or accept inventory-group if it is meant for something else.",
    ),
    "accept": Check(
        ERROR,
        "`preflight_accept` holds a name that is no check, or one that cannot be accepted.",
        "names of checks that can be accepted",
        "Take the name from the CHECK column of the report or from docs/troubleshooting.md.",
        acceptable=False,
    ),
    # Reaching the host
    "unreachable": Check(
        ERROR,
        "Ansible cannot log in to the host.",
        "SSH from the control node",
        "Try `ssh` with the same user and key; see ansible_host, ansible_user and ansible_ssh_common_args in the "
        "inventory, and whether the host runs.",
        acceptable=False,
    ),
    "unreadable": Check(
        ERROR,
        "The host was reached, but could not be looked at.",
        "Python 3.9 or newer and rights to become root",
        "Install python3, or set ansible_python_interpreter; give --ask-become-pass if sudo asks for a password.",
        acceptable=False,
    ),
    "root": Check(
        ERROR,
        "Tasks do not run as root.",
        "root",
        "Log in as root, or set ansible_become: true in the inventory.",
        acceptable=False,
    ),
    "python": Check(
        ERROR, "Python on the host is too old.", "Python 3.9 or newer", "Upgrade the operating system.", False
    ),
    # The system
    "os": Check(
        ERROR,
        "An operating system that the platform is not made for.",
        "Ubuntu 22.04 or 24.04, Debian 11 or newer",
        "Install one of these, or take the host out of the inventory.",
    ),
    "os-untested": Check(
        WARNING,
        "A release of a known system that no test has run on.",
        "Ubuntu 22.04 or 24.04, Debian 11, 12 or 13",
        "Nothing needs to be done where it works; a tested release is safer.",
    ),
    "architecture": Check(
        ERROR, "The images are built for another kind of processor.", "x86_64", "Use an x86_64 host.", False
    ),
    "systemd": Check(
        ERROR,
        "systemd is not process 1: MicroK8s' services are units of it.",
        "systemd as process 1",
        "Boot the host with systemd; a plain container cannot be a node.",
    ),
    "kernel": Check(
        ERROR,
        "The kernel is older than any supported system's.",
        "preflight_min_kernel",
        "Boot the kernel of the distribution, or upgrade it.",
    ),
    "kernel-module": Check(
        ERROR,
        "Something that containers and their network need from the kernel is neither loaded nor there to be loaded.",
        "the module loaded, built in or below /lib/modules",
        "Install the kernel's modules (linux-modules-extra on Ubuntu) and reboot into the newest installed kernel.",
    ),
    "cgroup-controllers": Check(
        ERROR,
        "The kernel cannot limit what containers use.",
        "cgroup controllers cpu, cpuset, memory and pids",
        "Boot with cgroup_enable=memory and without cgroup_disable=... (GRUB_CMDLINE_LINUX in /etc/default/grub, then "
        "update-grub).",
    ),
    "cgroup-v1": Check(
        WARNING,
        "Control groups are version 1, which Kubernetes 1.35 refuses by default.",
        "cgroup version 2 before an upgrade to MicroK8s 1.35",
        "Boot with systemd.unified_cgroup_hierarchy=1 when convenient.",
    ),
    "snapd": Check(
        ERROR,
        "There is no `snap` command, by which MicroK8s is installed.",
        "package snapd",
        "apt-get install snapd; without the internet from the site's mirror of packages or the installation medium.",
    ),
    # Size
    "cpus": Check(
        ERROR, "Too few CPUs.", "preflight_min_cpus", "Use a larger host, or lower preflight_min_cpus for a trial."
    ),
    "memory": Check(
        ERROR,
        "Too little memory.",
        "preflight_min_memory_gib",
        "Use a larger host, or lower preflight_min_memory_gib for a trial.",
    ),
    "disk": Check(
        ERROR,
        "The file system that will hold the images is too small.",
        "preflight_min_disk_gb",
        "Grow the file system, or lower preflight_min_disk_gb for a trial.",
    ),
    "disk-free": Check(
        ERROR,
        "Too little room is free for the images. A warning where MicroK8s is installed already.",
        "preflight_min_free_disk_gb",
        "Free some room (docker system prune, apt-get clean, journalctl --vacuum-size=1G), or grow the file system.",
    ),
    "swap": Check(
        WARNING,
        "Swap is on: limits of memory are not kept, and a busy notebook slows down the whole host.",
        "no swap",
        "swapoff -a, and remove the swap entries from /etc/fstab.",
    ),
    "inotify": Check(
        WARNING,
        "Few files can be watched: with many pods, logs and editors fail with `too many open files`.",
        "fs.inotify.max_user_instances 1024 and fs.inotify.max_user_watches 1048576, or more",
        "Set both in /etc/sysctl.d/60-gpuhub.conf, then sysctl --system.",
    ),
    "aio": Check(
        WARNING,
        "The limit of asynchronous I/O is nearly reached: the cluster's database fails to start.",
        "a tenth of fs.aio-max-nr free",
        "Raise fs.aio-max-nr in /etc/sysctl.d/60-gpuhub.conf, then sysctl --system.",
    ),
    "image-store": Check(
        ERROR,
        "The image store lies on a file system that cannot hold container layers, or where nothing may be run.",
        "a local file system (ext4, xfs, btrfs) without noexec under the image store",
        "Mount another file system there, or remount it without noexec and change /etc/fstab.",
    ),
    "mount-options": Check(
        WARNING,
        "A folder that MicroK8s uses is mounted with options that some containers do not work with.",
        "neither nodev nor nosuid",
        "Remove the options from /etc/fstab and remount.",
    ),
    # Name and time
    "host-name": Check(
        ERROR,
        "The host's name cannot be the name of a node.",
        "letters, digits, '-' and '.', at most 63 between dots, neither localhost",
        "hostnamectl set-hostname NAME, and the same name in /etc/hosts.",
    ),
    "host-name-case": Check(
        WARNING,
        "The host's name has capital letters; the node's has none.",
        "lower case",
        "hostnamectl set-hostname NAME, before the host is in a cluster.",
    ),
    "host-name-duplicate": Check(
        ERROR,
        "Two hosts have the same name, which would be one node.",
        "a name of its own for each host",
        "hostnamectl set-hostname NAME on one of them.",
        acceptable=False,
    ),
    "own-name": Check(
        WARNING,
        "The host's own name does not lead to the host: sudo waits for time-outs, and certificates miss an address.",
        "its own name resolved to one of its addresses, without a DNS server if there is none",
        "Put the host's address and name into its /etc/hosts.",
    ),
    "machine-id-duplicate": Check(
        WARNING,
        "Two hosts are copies of one image: the same machine id gives both the same address by DHCP.",
        "a machine id of its own for each host",
        "rm /etc/machine-id /var/lib/dbus/machine-id; systemd-machine-id-setup; reboot.",
    ),
    "clock-skew": Check(
        ERROR,
        "The clocks of two hosts differ: certificates are not valid yet, logins fail.",
        "clocks that differ by preflight_max_clock_skew seconds at most",
        "Let all hosts ask the same NTP server (timedatectl set-ntp true, /etc/systemd/timesyncd.conf).",
    ),
    "clock-control": Check(
        WARNING,
        "The hosts agree with each other, but not with the control node.",
        "clocks that differ by preflight_max_clock_skew seconds at most",
        "See which one is right, and set the other by NTP.",
    ),
    # Network
    "default-route": Check(
        ERROR,
        "No IPv4 default route: the node's address and the pods' network are found by it.",
        "an IPv4 default route",
        "ip route add default via GATEWAY, and the same in the network's configuration. In a closed network any router "
        "of the own network serves.",
    ),
    "address-duplicate": Check(
        ERROR,
        "Two hosts of the inventory have the same address, or are the same machine.",
        "an address of its own for each host",
        "Correct ansible_host in the inventory, or the address of one host.",
        acceptable=False,
    ),
    "port": Check(
        ERROR,
        "Something else listens on a port that the platform needs.",
        "the port free",
        "Stop what listens there (systemctl disable --now UNIT), or move it to another port.",
    ),
    "network-overlap": Check(
        ERROR,
        "The pods' or services' network is in use at the site: pods could not reach those addresses, or the host loses "
        "its way to them.",
        "networks that the site does not use",
        "Choose other networks by microk8s_pod_cidr, or microk8s_service_cidr and microk8s_dns_address, before the "
        "first deployment.",
    ),
    "forward-policy": Check(
        WARNING,
        "The firewall drops what is forwarded (ufw and Docker do that): pods on different hosts may not reach each "
        "other.",
        "policy ACCEPT of iptables' chain FORWARD",
        "iptables -P FORWARD ACCEPT, made lasting; with ufw: DEFAULT_FORWARD_POLICY=ACCEPT in /etc/default/ufw.",
    ),
    # Storage
    "shared-storage": Check(
        ERROR,
        "The shared storage is not there. With a single host and a plain folder: a warning, for it is not shared.",
        "the shared storage mounted on every node",
        "Mount it (and add it to /etc/fstab with _netdev), or correct gpuhub_shared_storage_path.",
    ),
    "shared-storage-different": Check(
        ERROR,
        "The same path leads to different storage on two hosts: users would not find their files.",
        "the same folder of the same file system on every host",
        "Compare `findmnt -T PATH` of both hosts and mount what the head has.",
    ),
    "shared-storage-source": Check(
        WARNING,
        "The same storage, it seems, is mounted by different names on two hosts.",
        "the same source on every host",
        "Compare `findmnt -T PATH` of both hosts; nothing needs to be done if both names mean the same server.",
    ),
    "shared-storage-write": Check(
        ERROR,
        "Root cannot write to the shared storage, or its files become somebody else's (root_squash, read-only).",
        "root may write and keeps its files",
        "Mount it read-write; on an NFS server export it to the nodes with no_root_squash.",
    ),
    "shared-storage-noexec": Check(
        WARNING,
        "Nothing on the shared storage can be run: users' own environments (conda, venv) do not work.",
        "the shared storage mounted without noexec",
        "Remove noexec from the mount's options.",
    ),
    "no-shared-storage": Check(
        WARNING,
        "Several workers without shared storage: a home stays on the worker where it was made, and so does its user.",
        "gpuhub_shared_storage_path, a folder of storage that all hosts have mounted",
        "Mount storage on all hosts and set gpuhub_shared_storage_path, before users have data.",
    ),
    # What is there already
    "kubernetes": Check(
        ERROR,
        "Another Kubernetes is on the host: both would want the same ports and network rules.",
        "no other Kubernetes",
        "Remove it (k3s-uninstall.sh, k3s-agent-uninstall.sh, rke2-uninstall.sh, k0s reset, kubeadm reset), reboot, "
        "and remove the folders that are left.",
    ),
    "microk8s-foreign": Check(
        ERROR,
        "MicroK8s is on the host and was not installed by this collection.",
        "no MicroK8s, or one that this collection has installed",
        "snap remove --purge microk8s (all its data is lost), or accept microk8s-foreign to take it over.",
    ),
    "microk8s-version": Check(
        ERROR,
        "The MicroK8s that is installed is too old.",
        "MicroK8s 1.30 or newer",
        "Upgrade it one minor version at a time (snap refresh microk8s --channel=...).",
    ),
    "microk8s-end-of-life": Check(
        WARNING,
        "The MicroK8s that is installed gets no security updates any more.",
        "a supported MicroK8s",
        "Upgrade it one minor version at a time.",
    ),
    "kubelet-folder": Check(
        WARNING,
        "/var/lib/kubelet is a folder with files of another installation: GPUs could not be registered there.",
        "no /var/lib/kubelet, or MicroK8s' link",
        "Unmount what is below it and remove it.",
    ),
    "docker": Check(
        WARNING,
        "Docker is on the host: it drops forwarded packets, and NVIDIA's toolkit may write MicroK8s' settings for it.",
        "no Docker on nodes",
        "Remove Docker if nothing needs it; otherwise see that the policy of chain FORWARD stays ACCEPT.",
    ),
    # GPUs and fast networks
    "gpu": Check(INFO, "The GPUs that were found.", "", ""),
    "gpu-required": Check(
        ERROR,
        "No NVIDIA GPU on a host that shall have one (`preflight_gpu_required`).",
        "an NVIDIA GPU on the PCI bus",
        "See lspci -d 10de:, the BIOS and the card's seat and power; or take the host out of those with GPUs.",
    ),
    "gpu-driver": Check(
        ERROR,
        "The NVIDIA driver is too old, too new for the GPU, or its parts are of different versions.",
        "preflight_min_driver",
        "Install a driver of a supported branch (580 is the last one for Pascal and Volta: P100, V100) and reboot.",
    ),
    "gpu-driver-missing": Check(
        WARNING,
        "There is a GPU, but no NVIDIA driver is loaded.",
        "an NVIDIA driver",
        "Install the distribution's NVIDIA server driver and reboot, or let the GPU Operator bring one.",
    ),
    "gpu-missing": Check(
        WARNING,
        "The driver does not run every GPU that the PCI bus has.",
        "every GPU run by the driver",
        "See dmesg for NVRM and Xid; a GPU that fell off the bus comes back with a power cycle. Pascal and Volta need "
        "the proprietary kernel module, not the open one.",
    ),
    "gpu-nouveau": Check(
        WARNING,
        "The nouveau driver holds the GPU: NVIDIA's driver cannot be loaded.",
        "nouveau not loaded",
        "echo blacklist nouveau > /etc/modprobe.d/nouveau.conf; update-initramfs -u; reboot.",
    ),
    "rdma": Check(INFO, "The InfiniBand and RoCE devices that were found.", "", ""),
    "rdma-required": Check(
        ERROR,
        "No InfiniBand or RoCE device with a working port on a host that shall have one (`preflight_rdma_required`).",
        "an RDMA device with an active port",
        "See ibstat and lspci -d 15b3:; load mlx5_ib, start a subnet manager, check cables.",
    ),
    "rdma-driver": Check(
        WARNING,
        "There is an InfiniBand card, but no RDMA device.",
        "a driver that makes an RDMA device of it (mlx5_ib)",
        "modprobe mlx5_ib; install the kernel's extra modules or DOCA-OFED.",
    ),
    "rdma-port": Check(
        WARNING,
        "A port of an InfiniBand device is not active. Of an Ethernet (RoCE) device: only worth knowing.",
        "state ACTIVE",
        "See the cable, the switch and, for InfiniBand, whether a subnet manager runs (INIT means it does not).",
    ),
    # The way in
    "clear-text": Check(
        WARNING,
        "Users log in without TLS: passwords travel in clear text.",
        "HTTPS where people log in",
        "Set nginx_enabled: true, with nginx_certificate_file and nginx_certificate_key_file if you have a "
        "certificate.",
    ),
}


def finding(name: str, subject: str, found: str, needed: str = "", severity: str = "") -> Finding:
    """Return a finding of a check; what is not given is the check's own. KeyError: no such check.

    Names of hosts and programs are others' texts: what a terminal would act on is shown as `?`.
    """
    check = CHECKS[name]
    subject, found, needed = (
        "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
        for text in (subject, found, needed or check.needed)
    )
    return Finding(name, severity or check.severity, subject, found, needed, check.cure)


def from_dict(values: Mapping[str, Any]) -> Finding:
    """Return a finding from what `_asdict` made of it, on its way through JSON."""
    return Finding(*(str(values.get(field, "")) for field in Finding._fields))


def network(text: str) -> ipaddress.IPv4Network | None:
    """Return an IPv4 network, or None if the text is none: what is a setting is checked elsewhere."""
    try:
        return ipaddress.IPv4Network(text, strict=False)
    except ValueError:
        return None


def markdown() -> str:
    """Return the table of all checks for docs/troubleshooting.md."""
    lines = ["| check | severity | what was found | needed | cure |", "|---|---|---|---|---|"]
    for name, check in CHECKS.items():
        severity = check.severity if check.acceptable or check.severity != ERROR else f"{check.severity}, always"
        cells = (f"`{name}`", severity, check.about, check.needed, check.cure)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") or " " for cell in cells) + " |")
    return "\n".join(lines) + "\n"
