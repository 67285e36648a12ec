"""One lab on this machine: its name, its hosts' names and addresses, and where its files lie."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .process import LabError

GATEWAY = "10.77.0.1"
# Node ports on the head that `publish` makes this machine's: JupyterHub's, the usage portal's.
PORTS = (30080, 29781)
MAX_WORKERS = 20
_STATE = Path("/var/lib/gpuhub-lab")
_RUN = Path("/run/gpuhub-lab")


@dataclass(frozen=True)
class Instance:
    """Several instances run side by side; each has namespaces of its own, so the addresses are the same in all."""

    name: str

    @classmethod
    def current(cls) -> Instance:
        """The instance that the environment variable GPUHUB_LAB_NAME names."""
        return cls.named(os.environ.get("GPUHUB_LAB_NAME") or "lab")

    @classmethod
    def named(cls, name: str) -> Instance:
        """The instance of a name."""
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,19}", name):
            raise LabError(
                f"{name!r} cannot name a lab: at most 20 lower-case letters, digits and hyphens, first a letter"
            )
        return cls(name)

    @property
    def run(self) -> Path:
        """Runtime files: mount points, locks, logs, ssh configuration."""
        return _RUN / self.name

    @property
    def lock(self) -> Path:
        """Held by every command that changes this instance."""
        return _RUN / f"{self.name}.lock"

    @property
    def state(self) -> Path:
        """Where the file system of the hosts' files and saves is mounted."""
        return _STATE / self.name

    @property
    def image(self) -> Path:
        """The file that carries that file system."""
        return _STATE / f"{self.name}.btrfs"

    @property
    def switch(self) -> str:
        """Network namespace of the switch, in which Ansible and the browser run too."""
        return f"{self.name}-sw"

    @property
    def cgroup(self) -> str:
        """Name of this instance's folder in each cgroup hierarchy."""
        return f"gpuhub-lab.{self.name}"

    def namespace(self, host: str) -> str:
        """Network namespace of a host."""
        return f"{self.name}-{host}"


def names(workers: int) -> list[str]:
    """The hosts of a lab with this many workers: head, worker1, ..."""
    return ["head", *(f"worker{i}" for i in range(1, workers + 1))]


def number(host: str) -> int:
    """0 for head, N for workerN; an error for all else."""
    match = re.fullmatch(r"head|worker([1-9][0-9]?)", host)
    index = int(match[1] or 0) if match else MAX_WORKERS + 1
    if index > MAX_WORKERS:
        raise LabError(f"no host is called {host!r}: there are head and worker1 to worker{MAX_WORKERS}")
    return index


def address(host: str) -> str:
    """Address of a host in the lab's network."""
    return f"10.77.0.{11 + number(host)}"
