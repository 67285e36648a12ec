"""What a host is, read from its /proc, /sys and /etc and a few commands that change nothing. Standard library only.

Everything is read through a `Source`, so that tests read recorded hosts. A fact that cannot be read is empty or None;
nothing here raises because a host lacks something.
"""

from __future__ import annotations

import ipaddress
import json
import os
import platform
import re
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

# What MicroK8s needs from the kernel, each with where it shows also if it is built into a kernel without /lib/modules.
# Whether iptables works by nf_tables or by ip_tables is the host's choice.
KERNEL_MODULES = {
    "overlay": "",
    "br_netfilter": "/proc/sys/net/bridge",
    "nf_conntrack": "/proc/sys/net/netfilter/nf_conntrack_max",
    "vxlan": "",
}
# How long a command or the shared storage may take to answer, in seconds.
PATIENCE = 15

# Runs in a process of its own, because a dead network file system does not answer at all.
_PROBE = r"""
import json, os, sys, uuid
path, write = sys.argv[1], sys.argv[2] == "write"
status, size = os.stat(path), os.statvfs(path)
answer = {"inode": status.st_ino, "bytes": size.f_frsize * size.f_blocks, "fsid": size.f_fsid, "problem": ""}
if write:
    name = os.path.join(path, ".gpuhub-preflight-" + uuid.uuid4().hex)
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            owner = os.stat(name).st_uid
            if owner != os.geteuid():
                answer["problem"] = "a file that root makes belongs to user %d (root_squash)" % owner
            else:
                os.chown(name, 1000, 1000)
        finally:
            os.unlink(name)
    except OSError as error:
        answer["problem"] = "root cannot make a file and give it away: %s" % error.strerror
print(json.dumps(answer))
"""


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo."""

    point: str
    root: str
    type: str
    source: str
    options: tuple[str, ...]

    def flags(self) -> list[str]:
        """The options that take something away."""
        return [flag for flag in ("nodev", "noexec", "nosuid", "ro") if flag in self.options]


class Source:
    """Where a host is read: its files below `root`, and the few things that are no files."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Where an absolute path of the host lies."""
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str:
        """A file's text without white space around it; empty if it cannot be read."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    def names(self, name: str) -> list[str]:
        """What a folder holds, sorted; nothing if there is no such folder."""
        try:
            return sorted(path.name for path in self.path(name).iterdir())
        except OSError:
            return []

    def exists(self, name: str) -> bool:
        """Whether there is something, be it a link that leads nowhere."""
        return os.path.lexists(self.path(name))

    def link(self, name: str) -> str:
        """Where a link leads; empty if it is none."""
        try:
            return str(self.path(name).readlink())
        except OSError:
            return ""

    def number(self, name: str) -> int | None:
        """The number that a file holds."""
        text = self.text(name)
        return int(text) if re.fullmatch(r"\d+", text) else None

    def run(self, *command: str) -> tuple[int, str]:
        """Exit code and output of a command; 127 if there is none of that name, 124 if it does not end."""
        path = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
        try:
            process = subprocess.Popen(
                command,
                env={"PATH": path, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError:
            return 127, ""
        try:
            output, _errors = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()  # and not waited for: a process that hangs in the kernel does not end by that
            return 124, f"no answer within {PATIENCE} s"
        return process.returncode, output.decode(errors="replace").strip()

    def space(self, name: str) -> tuple[int, int]:
        """Bytes of the file system of the nearest folder that exists: all, and free for others than root."""
        path = self.path(name)
        while not path.exists():
            path = path.parent
        size = os.statvfs(path)
        return size.f_frsize * size.f_blocks, size.f_frsize * size.f_bavail

    def try_folder(self, path: str, write: bool) -> dict[str, Any]:
        """What identifies a folder (`fsid`, `inode`, `bytes`) and a `problem`, empty if it can be used as wanted.

        `there` is false where there is no such folder, or its file system does not answer.
        """
        code, output = self.run(sys.executable, "-c", _PROBE, path, "write" if write else "look")
        if code:
            return {"there": False, "problem": output.splitlines()[-1] if output else f"exit code {code}"}
        return {"there": True, **json.loads(output)}

    def machine(self) -> dict[str, Any]:
        """What no file says: kernel, architecture, host name, user, Python, clock in seconds since the epoch."""
        return {
            "kernel": platform.release(),
            "architecture": platform.machine(),
            "host_name": socket.gethostname(),
            "uid": os.geteuid(),
            "python": platform.python_version(),
            "clock": time.time(),
        }


def read_host(source: Source, image_store: str, shared_path: str, may_write: bool) -> dict[str, Any]:
    """Return all facts of a host as JSON knows them; sizes in bytes.

    `may_write` lets the shared storage be tried with an empty file that is removed at once.
    """
    mounts = read_mounts(source)
    facts = source.machine()
    facts.update(
        system=_system(source),
        cgroup=_cgroup(source),
        cpus=len(re.findall(r"^processor\s*:", source.text("/proc/cpuinfo"), re.MULTILINE)),
        memory=_meminfo(source, "MemTotal"),
        swap=_meminfo(source, "SwapTotal"),
        image_store=_folder(source, mounts, image_store),
        mount_flags={path: mount_of(mounts, path).flags() for path in ("/snap", "/var/snap", "/var/lib")},
        kernel_modules={
            name: _has_module(source, facts["kernel"], name, sign) for name, sign in KERNEL_MODULES.items()
        },
        limits={
            "inotify_instances": source.number("/proc/sys/fs/inotify/max_user_instances"),
            "inotify_watches": source.number("/proc/sys/fs/inotify/max_user_watches"),
            "aio_most": source.number("/proc/sys/fs/aio-max-nr"),
            "aio_used": source.number("/proc/sys/fs/aio-nr"),
        },
        machine_id=source.text("/etc/machine-id"),
        snapd=any(source.exists(path) for path in ("/usr/bin/snap", "/usr/local/bin/snap", "/bin/snap")),
        gpus=_gpus(source),
        rdma=_rdma(source),
        listeners=_listeners(source),
        interfaces=source.names("/sys/class/net"),
        addresses=_addresses(source),
        routes=_routes(source),
        reached=_reached(source, mounts),
        own_name=_resolve(source, facts["host_name"]),
        forward_policy=_forward_policy(source),
        shared=_shared(source, shared_path, may_write) if shared_path else None,
        kubernetes=_kubernetes(source),
        microk8s=_microk8s(source),
        kubelet_folder=bool(source.names("/var/lib/kubelet")) and not source.link("/var/lib/kubelet"),
        docker=any(source.exists(path) for path in ("/usr/bin/dockerd", "/snap/docker", "/usr/local/bin/dockerd")),
    )
    return facts


# The system


def _system(source: Source) -> dict[str, Any]:
    release = {}
    for line in (source.text("/etc/os-release") or source.text("/usr/lib/os-release")).splitlines():
        key, _equals, value = line.partition("=")
        release[key.strip()] = value.strip().strip("\"'")
    return {
        "id": release.get("ID", ""),
        "version": release.get("VERSION_ID", ""),
        "name": release.get("PRETTY_NAME") or release.get("NAME") or "unknown",
        # As sd_booted(3) tells it.
        "systemd": source.exists("/run/systemd/system"),
    }


def _cgroup(source: Source) -> dict[str, Any]:
    """Version and usable controllers. With both versions mounted (hybrid) the first one has the controllers."""
    unified = source.text("/sys/fs/cgroup/cgroup.controllers").split()
    if unified:
        return {"version": 2, "controllers": unified}
    rows = [line.split() for line in source.text("/proc/cgroups").splitlines() if not line.startswith("#")]
    return {"version": 1, "controllers": sorted(row[0] for row in rows if len(row) == 4 and row[3] == "1")}


def _meminfo(source: Source, key: str) -> int:
    match = re.search(rf"^{key}:\s*(\d+) kB", source.text("/proc/meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _has_module(source: Source, kernel: str, name: str, sign: str) -> bool:
    """Whether a module is loaded, built in, or can be loaded."""
    if source.exists(f"/sys/module/{name}") or (sign and source.exists(sign)):
        return True
    folder = f"/lib/modules/{kernel}"
    lists = source.text(f"{folder}/modules.builtin") + "\n" + source.text(f"{folder}/modules.dep")
    if re.search(rf"/{name}\.ko(\.\w+)?(:|$)", lists, re.MULTILINE):
        return True
    # A file system that is built in has no folder in /sys/module where it takes no parameters.
    return name in source.text("/proc/filesystems").split()


# Folders and mounts


def read_mounts(source: Source) -> list[Mount]:
    """Return all mounts in the order in which they were made."""
    mounts = []
    for line in source.text("/proc/self/mountinfo").splitlines():
        left, _dash, right = line.partition(" - ")
        fields, more = left.split(), right.split()
        if len(fields) >= 6 and len(more) >= 2:
            # Of the mount point and of the file system: it is read-only where one of them is.
            options = (*fields[5].split(","), *(more[2].split(",") if len(more) > 2 else ()))
            mounts.append(Mount(_unescape(fields[4]), _unescape(fields[3]), more[0], _unescape(more[1]), options))
    return mounts


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def mount_of(mounts: list[Mount], path: str) -> Mount:
    """Return the mount that holds a path: the deepest, and of those at one place the last."""
    inside = [mount for mount in mounts if (path.rstrip("/") + "/").startswith(mount.point.rstrip("/") + "/")]
    deepest = max((len(mount.point) for mount in inside), default=0)
    found = [mount for mount in inside if len(mount.point) == deepest]
    return found[-1] if found else Mount("/", "/", "unknown", "unknown", ())


def _folder(source: Source, mounts: list[Mount], path: str) -> dict[str, Any]:
    mount = mount_of(mounts, path)
    size, free = source.space(path)
    return {"path": path, "mount": mount.point, "type": mount.type, "flags": mount.flags(), "size": size,
            "free": free}  # fmt: skip


def _shared(source: Source, path: str, may_write: bool) -> dict[str, Any]:
    """What is mounted at the path of the shared storage, and what `Source.try_folder` says of it."""
    tried = source.try_folder(path, may_write)
    mount = mount_of(read_mounts(source), path)  # again: to look there is what makes an automounter mount it
    return {
        "path": path,
        "mount": mount.point,
        "type": mount.type,
        "source": mount.source,
        "root": mount.root,
        "flags": mount.flags(),
        **tried,
    }


# Names and networks


def _resolve(source: Source, name: str) -> list[str]:
    """The IPv4 addresses of a name, as the host's own programs find them."""
    code, output = source.run("getent", "ahostsv4", name)
    return sorted({line.split()[0] for line in output.splitlines() if line.strip()}) if code == 0 else []


def _addresses(source: Source) -> list[str]:
    """IPv4 addresses of the host but those of the loopback network."""
    found, last = set(), ""
    for line in source.text("/proc/net/fib_trie").splitlines():
        if match := re.search(r"-- (\d+\.\d+\.\d+\.\d+)", line):
            last = match[1]
        elif "/32 host LOCAL" in line and not last.startswith("127."):
            found.add(last)
    return sorted(found)


def _routes(source: Source) -> list[dict[str, str]]:
    """IPv4 routes of the main table, each `network`, `interface` (`*`: to nowhere) and `gateway`."""
    routes = []
    for line in source.text("/proc/net/route").splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8:
            continue
        destination, gateway, mask = (
            str(ipaddress.IPv4Address(struct.pack("<I", int(fields[place], 16)))) for place in (1, 2, 7)
        )
        routes.append(
            {
                "network": str(ipaddress.IPv4Network(f"{destination}/{mask}", strict=False)),
                "interface": fields[0],
                "gateway": "" if gateway == "0.0.0.0" else gateway,
            }
        )
    return routes


def _reached(source: Source, mounts: list[Mount]) -> dict[str, str]:
    """Addresses that the host must go on reaching, and as what: name servers and file servers."""
    found = {}
    for line in source.text("/etc/resolv.conf").splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and not words[1].startswith("127."):
            found[words[1]] = "name server"
    for mount in mounts:
        # NFS by name tells its address among the options, Ceph names monitors in the source.
        for address in re.findall(r"(\d+\.\d+\.\d+\.\d+)[:,/@]", f"{mount.source},{','.join(mount.options)},"):
            found[address] = f"file server of {mount.point}"
    return found


def _forward_policy(source: Source) -> str:
    """The policy of iptables' chain FORWARD; empty if it cannot be known."""
    code, output = source.run("iptables", "-S", "FORWARD")
    match = re.search(r"^-P FORWARD (\w+)", output, re.MULTILINE)
    return match[1] if code == 0 and match else ""


_LISTENING = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}


def _listeners(source: Source) -> list[dict[str, Any]]:
    """Sockets that wait for others, each `protocol`, `address`, `port`, `process`, `unit`.

    `process` is the command's name and number and `unit` its control group; both are empty for a socket of the kernel.
    """
    sockets = []
    for table, state in _LISTENING.items():
        for line in source.text(f"/proc/net/{table}").splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9 and fields[3] == state:
                address, port = fields[1].split(":")
                sockets.append((table[:3], _address(address), int(port, 16), fields[9]))
    owners = _owners(source, {inode for *_rest, inode in sockets if inode != "0"})
    return [
        dict(zip(("protocol", "address", "port", "process", "unit"), (*socket, *owners.get(inode, ("", "")))))
        for *socket, inode in sockets
    ]


def _address(hexadecimal: str) -> str:
    """An address of /proc/net/tcp or tcp6: words of the machine's byte order (little on all that is supported)."""
    words = struct.pack(f"<{len(hexadecimal) // 8}I", *(int(word, 16) for word in re.findall("." * 8, hexadecimal)))
    return str(ipaddress.ip_address(words))


def _owners(source: Source, inodes: set[str]) -> dict[str, tuple[str, str]]:
    """Which process has a socket open: its name with its number, and its control group."""
    found = {}
    for process in (name for name in source.names("/proc") if name.isdigit()):
        for descriptor in source.names(f"/proc/{process}/fd"):
            inode = source.link(f"/proc/{process}/fd/{descriptor}").partition("socket:[")[2].rstrip("]")
            if inode in inodes and inode not in found:
                groups = [line.split(":", 2)[-1] for line in source.text(f"/proc/{process}/cgroup").splitlines()]
                unit = max(groups, key=len, default="")
                found[inode] = (f"{source.text(f'/proc/{process}/comm')} (process {process})", unit)
    return found


# What is there already

_KUBERNETES = {
    "k3s": ("/usr/local/bin/k3s", "/usr/bin/k3s", "/etc/rancher/k3s", "/var/lib/rancher/k3s"),
    "RKE2": ("/usr/local/bin/rke2", "/etc/rancher/rke2", "/var/lib/rancher/rke2"),
    "k0s": ("/usr/local/bin/k0s", "/var/lib/k0s"),
    "kubeadm": ("/etc/kubernetes/kubelet.conf", "/etc/kubernetes/admin.conf", "/etc/kubernetes/manifests"),
    "Canonical Kubernetes": ("/snap/k8s",),
    "minikube": ("/var/lib/minikube",),
}


def _kubernetes(source: Source) -> list[dict[str, str]]:
    """Other Kubernetes on the host, each `product` and the `evidence` for it; empty folders are none."""
    found = []
    for product, paths in _KUBERNETES.items():
        evidence = [path for path in paths if source.names(path) or source.path(path).is_file()]
        if evidence:
            found.append({"product": product, "evidence": ", ".join(evidence)})
    return found


def _microk8s(source: Source) -> dict[str, Any] | None:
    """MicroK8s on the host: its `version`, and whether this collection has installed it (`ours`)."""
    if not source.exists("/snap/microk8s/current") and not source.exists("/var/snap/microk8s/current"):
        return None
    description = source.text("/snap/microk8s/current/meta/snap.yaml")
    # YAML, of which JSON with its quoted keys is a part.
    match = re.search(r"^(?:version|\s*\"version\"):\s*['\"]?v?([0-9.]+)", description, re.MULTILINE)
    # The launch configuration is written before the snap is installed.
    ours = source.exists("/etc/microk8s.yaml") or source.exists("/var/lib/gpuhub")
    return {"version": match[1] if match else "", "ours": ours}


# GPUs and fast networks


def _pci(source: Source) -> list[dict[str, str]]:
    """PCI devices, each `slot`, `vendor`, `device` and `class` as hexadecimal texts, and `driver`."""
    base = "/sys/bus/pci/devices"
    return [
        {
            "slot": slot,
            **{key: source.text(f"{base}/{slot}/{key}") for key in ("vendor", "device", "class")},
            "driver": source.link(f"{base}/{slot}/driver").rpartition("/")[2],
        }
        for slot in source.names(base)
    ]


def _gpus(source: Source) -> dict[str, Any]:
    """NVIDIA GPUs: those of the PCI bus, the loaded driver, what it runs, and what nvidia-smi says."""
    # Class 03: display controllers. A GPU's sound and USB parts have other classes.
    devices = [d for d in _pci(source) if d["vendor"] == "0x10de" and d["class"].startswith("0x03")]
    version = source.text("/proc/driver/nvidia/version")
    match = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)", version)
    base = "/proc/driver/nvidia/gpus"
    models = [re.search(r"Model:\s*(.+)", source.text(f"{base}/{gpu}/information")) for gpu in source.names(base)]
    facts: dict[str, Any] = {
        "devices": devices,
        "driver": match[1] if match else source.text("/sys/module/nvidia/version"),
        "open": "Open Kernel Module" in version,
        "models": [model[1].strip() for model in models if model],
        "nouveau": source.exists("/sys/module/nouveau"),
        "smi": {},
    }
    if devices and any(source.exists(path) for path in ("/usr/bin/nvidia-smi", "/usr/local/bin/nvidia-smi")):
        query = "--query-gpu=name,driver_version,memory.total"
        code, output = source.run("nvidia-smi", query, "--format=csv,noheader,nounits")
        facts["smi"] = {"code": code, "output": output.splitlines()}
    return facts


def _rdma(source: Source) -> dict[str, Any]:
    """InfiniBand and RoCE: the cards of the PCI bus and the RDMA devices with their ports."""
    # 0x0207: InfiniBand. Mellanox' Ethernet cards (0x0200) may or may not be used for RoCE.
    cards = [device for device in _pci(source) if device["class"].startswith("0x0207")]
    devices = []
    base = "/sys/class/infiniband"
    for name in source.names(base):
        ports = [
            {
                "port": port,
                "layer": source.text(f"{base}/{name}/ports/{port}/link_layer"),
                "state": source.text(f"{base}/{name}/ports/{port}/state").partition(":")[2].strip(),
                "rate": source.text(f"{base}/{name}/ports/{port}/rate"),
            }
            for port in source.names(f"{base}/{name}/ports")
        ]
        devices.append({"name": name, "ports": ports})
    return {"cards": cards, "devices": devices}
