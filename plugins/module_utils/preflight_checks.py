"""What one host's facts come to: findings. Pure, standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .preflight_findings import ERROR, INFO, WARNING, Finding, finding, network

Facts = Mapping[str, Any]

GIB, GB = 2**30, 10**9
# A host of 16 GiB shows less, for the kernel keeps some; a file system is smaller than its disk.
_SHRINKAGE = 0.92
_TESTED = {"ubuntu": ("22.04", "24.04"), "debian": ("11", "12", "13")}
_OLDEST = {"ubuntu": (22, 4), "debian": (11,)}
# PCI device numbers below this one are Volta and older: no open kernel modules, and 580 is their last driver branch.
_TURING = 0x1E00
_LAST_BRANCH_BEFORE_TURING = 580
# Container layers need overlayfs, which stacks on none of these.
_NO_IMAGE_STORE = ("nfs", "nfs4", "ceph", "lustre", "cifs", "smb3", "overlay", "vfat", "exfat", "9p", "gpfs", "beegfs")
# Interfaces and routes to nowhere that MicroK8s' network makes.
_OWN_INTERFACES = re.compile(r"\*$|cali|vxlan\.calico|flannel|cni\d|tunl0|kube-")


class Port(NamedTuple):
    """A port that the platform needs on a host, and the units that may hold it."""

    number: int
    protocol: str
    purpose: str
    units: tuple[str, ...] = ()


class Needs(NamedTuple):
    """What a host must have; sizes as bought, 16 GiB of memory and 100 GB of disk."""

    single: bool
    min_cpus: int
    min_memory_gib: float
    min_disk_gb: float
    min_free_disk_gb: float
    min_kernel: str
    min_driver: str
    gpu: bool
    rdma: bool
    networks: Mapping[str, str]
    ports: tuple[Port, ...]
    microk8s_oldest: str
    microk8s_end_of_life: tuple[str, ...]


def check_host(facts: Facts, needs: Needs) -> list[Finding]:
    """Return everything that is worth saying about one host, in the order of the catalogue's groups."""
    return [found for check in _CHECKS for found in check(facts, needs)]


def version(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: `6.8.0-45-generic` is (6, 8, 0)."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", text)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def _system(facts: Facts, needs: Needs) -> Iterator[Finding]:
    system = facts["system"]
    name, release = system["id"], version(system["version"])
    if facts["uid"] != 0:
        yield finding("root", "user", f"user number {facts['uid']}")
    if version(facts["python"]) < (3, 9):
        yield finding("python", "python3", facts["python"])
    if name not in _OLDEST or release < _OLDEST[name]:
        yield finding("os", name or "unknown", system["name"])
    elif system["version"] not in _TESTED[name]:
        yield finding("os-untested", name, system["name"])
    if facts["architecture"] != "x86_64":
        yield finding("architecture", "processor", facts["architecture"])
    if not system["systemd"]:
        yield finding("systemd", "process 1", "something else")
    if version(facts["kernel"]) < version(needs.min_kernel):
        yield finding("kernel", "Linux", facts["kernel"], f"{needs.min_kernel} or newer (preflight_min_kernel)")
    lacking = [module for module, there in facts["kernel_modules"].items() if not there]
    if lacking:
        yield finding("kernel-module", ", ".join(lacking), f"kernel {facts['kernel']} lacks {', '.join(lacking)}")
    lacking = [name for name in ("cpu", "cpuset", "memory", "pids") if name not in facts["cgroup"]["controllers"]]
    if lacking:
        found = f"version {facts['cgroup']['version']} without {', '.join(lacking)}"
        yield finding("cgroup-controllers", ", ".join(lacking), found)
    if facts["cgroup"]["version"] == 1:
        yield finding("cgroup-v1", "cgroup", "version 1")
    if not facts["snapd"]:
        yield finding("snapd", "snap", "no snap command")


def _size(facts: Facts, needs: Needs) -> Iterator[Finding]:
    store = facts["image_store"]
    if facts["cpus"] < needs.min_cpus:
        yield finding("cpus", "CPUs", f"{facts['cpus']}", f"{needs.min_cpus} (preflight_min_cpus)")
    if facts["memory"] < needs.min_memory_gib * GIB * _SHRINKAGE:
        found, needed = f"{facts['memory'] / GIB:.1f} GiB", f"{needs.min_memory_gib:g} GiB (preflight_min_memory_gib)"
        yield finding("memory", "memory", found, needed)
    where = f"{store['path']} (file system at {store['mount']})"
    if store["size"] < needs.min_disk_gb * GB * _SHRINKAGE:
        found, needed = f"{store['size'] / GB:.0f} GB at {store['mount']}", f"{needs.min_disk_gb:g} GB"
        yield finding("disk", where, found, f"{needed} under {store['path']} (preflight_min_disk_gb)")
    if store["free"] < needs.min_free_disk_gb * GB:
        found, needed = f"{store['free'] / GB:.0f} GB free at {store['mount']}", f"{needs.min_free_disk_gb:g} GB free"
        # Where the images are in place, the room that they needed is gone rightly.
        severity = WARNING if facts["microk8s"] else ERROR
        needed = f"{needed} under {store['path']} (preflight_min_free_disk_gb)"
        yield finding("disk-free", where, found, needed, severity)
    if facts["swap"]:
        yield finding("swap", "swap", f"{facts['swap'] / GIB:.1f} GiB of swap")
    limits = facts["limits"]
    few = [
        f"fs.inotify.{key} = {limits[fact]}"
        for key, fact, least in (
            ("max_user_instances", "inotify_instances", 1024),
            ("max_user_watches", "inotify_watches", 1048576),
        )
        if limits[fact] is not None and limits[fact] < least
    ]
    if few:
        yield finding("inotify", "fs.inotify", ", ".join(few))
    most, used = limits["aio_most"], limits["aio_used"]
    if most is not None and used is not None and used > most * 0.9:
        yield finding("aio", "fs.aio-max-nr", f"{used} of {most} in use")
    if store["type"] in _NO_IMAGE_STORE or "noexec" in store["flags"] or "ro" in store["flags"]:
        flags = [flag for flag in ("noexec", "ro") if flag in store["flags"]]
        yield finding("image-store", where, " ".join([store["type"], "file system", *flags]))
    for path, flags in facts["mount_flags"].items():
        bad = [flag for flag in flags if flag in ("nodev", "nosuid")]
        if bad:
            yield finding("mount-options", path, f"{path} lies on a mount with {', '.join(bad)}")


def _names(facts: Facts, needs: Needs) -> Iterator[Finding]:
    name = facts["host_name"]
    # RFC 1123, as Kubernetes wants names of nodes.
    label = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    if name.lower() in ("localhost", "localhost.localdomain") or not re.fullmatch(
        rf"{label}(\.{label})*", name.lower()
    ):
        yield finding("host-name", name, f"'{name}'")
    elif name != name.lower():
        yield finding("host-name-case", name, f"'{name}'")
    if not facts["own_name"]:
        yield finding("own-name", name, f"'{name}' does not resolve")
    else:
        foreign = [a for a in facts["own_name"] if a not in facts["addresses"] and not a.startswith("127.")]
        if foreign:
            yield finding("own-name", name, f"'{name}' resolves to {', '.join(foreign)}, which is not this host's")


def _networks(facts: Facts, needs: Needs) -> Iterator[Finding]:
    routes = facts["routes"]
    if not any(route["network"] == "0.0.0.0/0" for route in routes):
        yield finding("default-route", "IPv4", "none")
    yield from _overlaps(facts, needs)
    yield from _ports(facts, needs)
    if facts["forward_policy"] == "DROP":
        yield finding("forward-policy", "FORWARD", "policy DROP")


def _overlaps(facts: Facts, needs: Needs) -> Iterator[Finding]:
    installed = bool(facts["microk8s"])
    ours, used = [], {}
    for route in facts["routes"]:
        net = network(route["network"])
        if net is None or net.prefixlen == 0:
            continue
        if installed and _OWN_INTERFACES.match(route["interface"]):
            ours.append(net)
        else:
            used[f"route to {net} by {route['interface']}"] = net
    for address in facts["addresses"]:
        net = network(address)
        if net is not None and not any(net.subnet_of(other) for other in (*ours, *used.values())):
            used[f"own address {address}"] = net
    for address, role in facts["reached"].items():
        net = network(address)
        if net is not None and not any(net.subnet_of(other) for other in used.values()):
            used[f"{role} {address}"] = net
    for variable, text in needs.networks.items():
        wanted = network(text)
        for what, net in used.items():
            # With our own network up, the address that its interface has there is ours.
            own = installed and what.startswith("own address")
            if wanted is not None and net.overlaps(wanted) and not own:
                yield finding("network-overlap", text, f"{what} overlaps {variable} {text}", f"{text} unused")


def _ports(facts: Facts, needs: Needs) -> Iterator[Finding]:
    for port in needs.ports:
        for socket in facts["listeners"]:
            if (socket["port"], socket["protocol"]) != (port.number, port.protocol) or _is_ours(socket, port, facts):
                continue
            unit = re.findall(r"[^/]+\.(?:service|socket|scope)", socket["unit"])
            who = socket["process"] or "the kernel (a tunnel or a file server)"
            where = f"{socket['address']}:{port.number}/{port.protocol}"
            found = f"{who}{' of ' + unit[-1] if unit else ''} listens on {where}"
            yield finding("port", f"{port.number}/{port.protocol}", found, f"{port.number} free for {port.purpose}")
            break


def _is_ours(socket: Mapping[str, Any], port: Port, facts: Facts) -> bool:
    """Whether a socket belongs to MicroK8s, to a pod of it, or to a unit that may hold the port."""
    if any(f"/{unit}" in socket["unit"] for unit in port.units):
        return True
    if not facts["microk8s"]:
        return False
    by_kernel = not socket["process"]  # MicroK8s' own tunnel
    return by_kernel or "/snap.microk8s." in socket["unit"] or "kubepods" in socket["unit"]


def _shared(facts: Facts, needs: Needs) -> Iterator[Finding]:
    shared = facts["shared"]
    if not shared:
        return
    path = shared["path"]
    if not shared["there"]:
        yield finding("shared-storage", path, f"{path}: {shared['problem']}")
        return
    if shared["mount"] == "/":
        found, severity = f"{path} is a folder of the host's own disk", WARNING if needs.single else ERROR
        yield finding("shared-storage", path, found, f"a mounted file system at {path}", severity)
        return
    if "ro" in shared["flags"]:
        yield finding("shared-storage-write", path, f"{shared['source']} is mounted read-only")
    elif shared["problem"]:
        yield finding("shared-storage-write", path, shared["problem"])
    if "noexec" in shared["flags"]:
        yield finding("shared-storage-noexec", path, f"{shared['source']} is mounted with noexec")


def _others(facts: Facts, needs: Needs) -> Iterator[Finding]:
    for other in facts["kubernetes"]:
        yield finding("kubernetes", other["product"], f"{other['product']}: {other['evidence']}")
    installed = facts["microk8s"]
    if installed:
        if not installed["ours"]:
            yield finding("microk8s-foreign", "MicroK8s", f"MicroK8s {installed['version'] or '(no version)'}")
        minor = version(installed["version"])[:2]
        if minor and minor < version(needs.microk8s_oldest):
            needed = f"MicroK8s {needs.microk8s_oldest} or newer"
            yield finding("microk8s-version", "MicroK8s", installed["version"], needed)
        elif minor in {version(text) for text in needs.microk8s_end_of_life}:
            yield finding("microk8s-end-of-life", "MicroK8s", installed["version"])
    if facts["kubelet_folder"]:
        yield finding("kubelet-folder", "/var/lib/kubelet", "a folder that is not empty")
    if facts["docker"]:
        yield finding("docker", "Docker", "dockerd is installed")


def _gpus(facts: Facts, needs: Needs) -> Iterator[Finding]:
    gpus = facts["gpus"]
    # A GPU that is handed to a virtual machine is not ours to run.
    devices, driver = [one for one in gpus["devices"] if one["driver"] != "vfio-pci"], gpus["driver"]
    if not devices:
        if needs.gpu:
            yield finding("gpu-required", "GPU", "no NVIDIA GPU")
        return
    old = any(int(device["device"] or "0xffff", 16) < _TURING for device in devices)
    names = sorted(set(gpus["models"])) or sorted({f"PCI device 10de:{d['device'][2:]}" for d in devices})
    yield finding("gpu", ", ".join(names), f"{len(devices)} x {', '.join(names)}, driver {driver or 'none'}")
    if not driver:
        if gpus["nouveau"]:
            yield finding("gpu-nouveau", "nouveau", "nouveau is loaded")
        yield finding("gpu-driver-missing", "driver", "no NVIDIA driver is loaded")
        return
    if version(driver) < version(needs.min_driver):
        yield finding("gpu-driver", "driver", driver, f"{needs.min_driver} or newer (preflight_min_driver)")
    elif old and version(driver)[0] > _LAST_BRANCH_BEFORE_TURING:
        found = f"{driver}, which knows no {', '.join(names)} any more"
        yield finding("gpu-driver", "driver", found, f"branch {_LAST_BRANCH_BEFORE_TURING} for this GPU")
    smi = gpus["smi"]
    if smi and smi["code"]:
        said = (smi["output"] or [f"exit code {smi['code']}"])[0]
        yield finding("gpu-driver", "nvidia-smi", said, "nvidia-smi works")
    if len(gpus["models"]) < len(devices):
        kind = "open" if gpus["open"] else "proprietary"
        found = f"{len(gpus['models'])} of {len(devices)} GPUs, with the {kind} kernel module {driver}"
        yield finding("gpu-missing", "GPU", found)


def _rdma(facts: Facts, needs: Needs) -> Iterator[Finding]:
    rdma = facts["rdma"]
    active = []
    for device in rdma["devices"]:
        for port in device["ports"]:
            name = f"{device['name']} port {port['port']}"
            if port["state"] == "ACTIVE":
                active.append(f"{name}: {port['layer']}, {port['rate']}")
            else:
                # Ethernet ports without a cable are common; a card for InfiniBand was bought to be used.
                severity = WARNING if port["layer"] == "InfiniBand" else INFO
                found = f"{name} is {port['state'] or 'in no state'} ({port['layer']})"
                yield finding("rdma-port", name, found, severity=severity)
    if active:
        yield finding("rdma", f"{len(active)} ports", "; ".join(active))
    if rdma["cards"] and not rdma["devices"]:
        yield finding("rdma-driver", "InfiniBand", f"{len(rdma['cards'])} cards, no RDMA device")
    if needs.rdma and not active:
        yield finding("rdma-required", "RDMA", "no active port")


_CHECKS = (_system, _size, _names, _networks, _shared, _others, _gpus, _rdma)
