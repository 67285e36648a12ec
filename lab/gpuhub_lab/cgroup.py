"""Cgroups of the lab's hosts, in every hierarchy of the machine: v1, v2 or both."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

from .process import LabError, kill, wait_until

_ROOT = Path("/sys/fs/cgroup")


def _hierarchies() -> list[tuple[Path, str]]:
    """Mount point of each hierarchy, and this process's cgroup in it."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers.removeprefix("name=") if controllers else ""] = path
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        root, mountpoint = before.split()[3:5]
        kind, _, options = after.split()[:3]
        if kind == "cgroup2":
            path = own.get("")
        elif kind == "cgroup":
            path = next((p for c, p in own.items() if c and set(c.split(",")) <= set(
                option.removeprefix("name=") for option in options.split(","))), None)  # fmt: skip
        else:
            continue
        if path is not None and mountpoint.startswith(str(_ROOT)):
            found.append((Path(mountpoint), path.removeprefix(root.rstrip("/"))))
    return found


def is_v1() -> bool:
    """Whether the machine has v1 controllers, alone or as a hybrid; systemd 256 and newer must be told to take them."""
    return any(mountpoint != _ROOT for mountpoint, _ in _hierarchies())


def place(instance: str, host: str) -> tuple[list[str], list[Path]]:
    """Where a host goes: the command that makes a cgroup and runs the rest in it, or cgroups to enter before."""
    if Path("/run/systemd/system").is_dir():
        # systemd owns the cgroups of its machine: it is asked for one that it leaves alone.
        return ["systemd-run", "--scope", "--quiet", "--collect", f"--unit={instance}.{host}", "-pDelegate=yes"], []
    return [], _create(instance, host)


def _create(instance: str, host: str) -> list[Path]:
    """Make a host's cgroup in each hierarchy."""
    made = []
    for mountpoint, path in _hierarchies():
        if mountpoint == _ROOT:
            # v2 alone: a cgroup that has processes, as the caller's own, cannot hand controllers down; the root can.
            folder = mountpoint / instance / host
            folder.mkdir(parents=True, exist_ok=True)
            controllers = " ".join(f"+{name}" for name in (mountpoint / "cgroup.controllers").read_text().split())
            for level in (mountpoint, folder.parent):
                (level / "cgroup.subtree_control").write_text(controllers)
        else:
            # Below the caller's own: limits set on the caller hold for the lab.
            folder = mountpoint / path.lstrip("/") / instance / host
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / "cpuset.cpus").is_file():
                # A v1 cpuset takes no process before it has processors and memory.
                for level in (folder.parent, folder):
                    for file in ("cpuset.cpus", "cpuset.mems"):
                        (level / file).write_text((level.parent / file).read_text())
                    (level / "cgroup.clone_children").write_text("1")
        made.append(folder)
    if not made:
        raise LabError(f"no cgroup hierarchy is mounted below {_ROOT}")
    return made


def enter(folders: list[Path]) -> None:
    """Move the calling process into these cgroups."""
    for folder in folders:
        (folder / "cgroup.procs").write_text(str(os.getpid()))


def find(instance: str, host: str | None = None) -> list[Path]:
    """The cgroups of an instance, or of one of its hosts, whoever made them."""
    found = []
    scope = rf"{re.escape(instance)}\.{host or '[^.]+'}\.scope"
    for parent, folders, _ in os.walk(_ROOT):
        for folder in folders:
            if folder == instance:
                found.append(Path(parent, folder, host or ""))
            elif re.fullmatch(scope, folder):
                found.append(Path(parent, folder))
        # Hosts' own trees are large and hold no other lab.
        folders[:] = [folder for folder in folders if not folder.startswith("gpuhub-lab.")]
    return [folder for folder in found if folder.is_dir()]


def processes(folders: list[Path]) -> set[int]:
    """Ids of all processes in these cgroups and below."""
    pids: set[int] = set()
    for folder in folders:
        for parent, _, files in os.walk(folder):
            if "cgroup.procs" in files:
                try:
                    pids.update(int(line) for line in Path(parent, "cgroup.procs").read_text().split())
                except OSError:  # removed meanwhile
                    continue
    return pids


def memory(instance: str, host: str) -> int | None:
    """Bytes of memory that a host's processes use, page cache excluded; None if it has no cgroup."""
    for folder in find(instance, host):
        stat = folder / "memory.stat"
        if stat.is_file():
            values = dict(line.split() for line in stat.read_text().splitlines())
            return int(values.get("total_rss") or values.get("anon") or 0)
    return None


def remove(instance: str, host: str | None = None) -> None:
    """End every process in these cgroups and remove them."""
    folders = find(instance, host)

    def emptied() -> bool:
        left = processes(folders)
        for pid in left:
            kill(pid)
        return not left

    if not wait_until(emptied, 10):
        raise LabError(f"processes do not end: {sorted(processes(folders))} in {folders[0]}")
    deadline = time.monotonic() + 5
    for folder in folders:
        for parent, _, _ in os.walk(folder, topdown=False):
            while True:
                try:
                    Path(parent).rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError as error:  # the kernel lets go of a cgroup a moment after its last process
                    if time.monotonic() > deadline:
                        raise LabError(f"cannot remove the cgroup {parent}: {error.strerror}") from error
                    time.sleep(0.02)
    if host is not None:
        for folder in {folder.parent for folder in folders if folder.name == host}:
            with suppress(OSError):  # another host's is there
                folder.rmdir()
