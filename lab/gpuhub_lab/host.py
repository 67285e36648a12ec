"""One emulated host: systemd in a container of its own over the template of its suite.

The supervisor runs as `python -m gpuhub_lab.host LOCK INSTANCE HOST ARGUMENT...` with the arguments of
systemd-nspawn; it starts the host again when it reboots itself and ends with it otherwise.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from . import cgroup, gpus, network, template
from .cache import say
from .instance import Instance, address
from .process import Daemon, LabError, alive, kill, sh, wait_until
from .storage import Storage

_REBOOTED = 133
_STOP_SECONDS = 30
_MODULES = ("overlay", "br_netfilter", "vxlan", "ip_tables", "iptable_nat", "iptable_filter", "nf_conntrack", "ip_set",
            "fuse", "xt_comment", "xt_conntrack", "xt_set", "xt_statistic", "xt_MASQUERADE")  # fmt: skip


class Host:
    """A host by name; it need not run."""

    def __init__(self, instance: Instance, name: str) -> None:
        self.instance = instance
        self.name = name
        self.address = address(name)
        self.files = Storage(instance).host(name)
        self.root = instance.run / name / "root"
        self.supervisor = Daemon(instance.run / name / "supervisor.lock")
        self._machine = f"{instance.cgroup}.{name}"

    # State

    @property
    def suite(self) -> str:
        """The Debian release that is, or will be, installed on it."""
        return template.of(self.name, Storage(self.instance).facts()["os"])

    def made(self) -> bool:
        """Whether there are files of it."""
        return (self.files / "upper").is_dir()

    def leader(self) -> int | None:
        """Process 1 of the host, seen from the machine; None if it does not run."""
        supervisor = self.supervisor.pid()
        if supervisor is None:
            return None
        for nspawn in _children(supervisor):
            for child in _children(nspawn):
                if _is_init(child):
                    return child
        return None

    def runs(self) -> bool:
        """Whether the host is whole: it runs, is watched and on the network."""
        return self.leader() is not None and network.is_attached(self.instance, self.name)

    # Life

    def start(self) -> None:
        """Boot the host; what an earlier, killed one left is removed first. Returns before the host is ready."""
        self.reap()
        storage = Storage(self.instance)
        for folder in ("upper", "work", "snap"):
            (self.files / folder).mkdir(parents=True, exist_ok=True)
        self.root.mkdir(parents=True, exist_ok=True)
        # Neither index nor redirects: a saved state must mount anywhere.
        options = (
            f"lowerdir={storage.templates()[self.suite]},upperdir={self.files}/upper,workdir={self.files}/work,"
            "index=off,metacopy=off,redirect_dir=off"
        )
        sh("mount", "-t", "overlay", f"gpuhub-lab-{self.instance.name}-{self.name}", "-o", options, self.root)
        self._identify()
        self._equip(storage)
        network.attach(self.instance, self.name)
        self.supervisor.start("host", self.instance.name, self.name, *self._arguments(storage))

    def stop(self) -> None:
        """Shut the host down in order; one that does not end in time is killed."""
        supervisor = self.supervisor.pid()
        if supervisor is not None and self.leader() is not None:
            kill(supervisor, signal.SIGTERM)
            if not wait_until(lambda: not alive(supervisor), _STOP_SECONDS, 0.05):
                say(f"{self.name} did not shut down within {_STOP_SECONDS} s: killed")
        self.reap()

    def reap(self) -> None:
        """End the host at once, as a power cut does, and remove everything of it but its files."""
        supervisor = self.supervisor.pid()
        if supervisor is not None:
            kill(supervisor)
            wait_until(lambda: self.supervisor.pid() is None, 5)
        cgroup.remove(self.instance.cgroup, self.name)
        network.detach(self.instance, self.name)
        while os.path.ismount(self.root):
            sh("umount", self.root)
        with suppress(OSError):  # nspawn leaves it where /run is no tmpfs
            Path("/run/systemd/nspawn/propagate", self._machine).rmdir()

    def enter(self, command: list[str]) -> None:
        """Replace this process by a command inside the host."""
        inside = self._inside(command)
        self._join_cgroup()
        os.execve(inside[0], inside, self._environment())

    def execute(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command inside the host; `options` are those of subprocess.run.

        A host that goes down stops all its processes before it ends them. nsenter stops with its child then, and nobody
        continues it: the child is never waited for, and the host cannot end. setsid only waits.
        """
        inside = self._inside(["setsid", "--fork", "--wait", *command], "--no-fork")
        return subprocess.run(
            inside, env=self._environment(), preexec_fn=self._join_cgroup, **{"text": True, **options}
        )

    def _inside(self, command: list[str], *options: str) -> list[str]:
        leader = self.leader()
        if leader is None:
            raise LabError(f"{self.name} does not run; start it by `lab start {self.name}` or `lab up`")
        namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd"]
        program = shutil.which("nsenter") or "/usr/bin/nsenter"
        return [program, f"--target={leader}", *namespaces, *options, "--", *command]

    def _join_cgroup(self) -> None:
        """Where namespaces do not bring the host's cgroups with them."""
        if cgroup.is_v1():
            cgroup.enter(cgroup.find(self.instance.cgroup, self.name))

    @staticmethod
    def _environment() -> dict[str, str]:
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin",
            "HOME": "/root",
            "USER": "root",
            "LANG": "C.UTF-8",
            "TERM": os.environ.get("TERM", "dumb"),
        }

    # Making

    def _identify(self) -> None:
        """Give a new host its name, its machine id and the lab's ssh key; an old one keeps what it has."""
        if not (self.files / "upper/etc/machine-id").exists():
            (self.root / "etc/hostname").write_text(self.name + "\n")
            (self.root / "etc/machine-id").write_text(uuid.uuid4().hex + "\n")
        key = (self.instance.run / "id.pub").read_text()
        authorized = self.root / "root/.ssh/authorized_keys"
        if not authorized.exists() or key not in authorized.read_text():
            with authorized.open("a") as file:
                file.write(key)
            authorized.chmod(0o600)

    def _equip(self, storage: Storage) -> None:
        """Tell the host which GPUs it has; they are its own as long as its machine id is."""
        machine_id = (self.root / "etc/machine-id").read_text().strip()
        found = gpus.describe(gpus.of(self.name, storage.facts()["gpus"]), machine_id)
        file = self.root / gpus.FILE
        if found is None:
            file.unlink(missing_ok=True)
        else:
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(found, indent=2) + "\n")

    def _arguments(self, storage: Storage) -> list[str]:
        binds = [f"--bind={self.files}/snap:/var/snap", f"--bind={storage.shared}:/mnt/shared"]
        binds += [f"--bind={device}" for device in ("/dev/kmsg", "/dev/fuse") if Path(device).exists()]
        modules = Path("/lib/modules") / platform.release()
        if (modules / "modules.dep").exists():
            # Hosts share the machine's kernel: its modules are loaded here, and hosts see that they are there.
            subprocess.run(["modprobe", "--all", "--quiet", *_MODULES], check=False)
            binds.append(f"--bind-ro={modules}")
        legacy = ["--setenv=SYSTEMD_PROC_CMDLINE=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"] if cgroup.is_v1() else []
        return [
            "--quiet",
            f"--directory={self.root}",
            f"--machine={self._machine}",
            f"--hostname={self.name}",
            "--register=no",
            "--keep-unit",
            f"--network-namespace-path=/run/netns/{self.instance.namespace(self.name)}",
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            "--console=pipe",
            "--kill-signal=SIGRTMIN+3",
            # What a Kubernetes node does inside: everything but loading a kernel.
            "--capability=all",
            "--system-call-filter=add_key keyctl request_key bpf perf_event_open @module userfaultfd",
            *binds,
            *legacy,
            "/usr/local/sbin/lab-init",
        ]


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _is_init(pid: int) -> bool:
    """Whether a process is number 1 of a process namespace below ours."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
    return len(numbers) > 1 and numbers[-1] == "1"


def main(lock: str, instance_name: str, name: str, *arguments: str) -> int:
    """Run the host until it is shut down; by SIGTERM this does so."""
    instance = Instance(instance_name)
    running: subprocess.Popen | None = None
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True
        if running is not None:
            running.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    Daemon(Path(lock)).hold()
    environment = {"PATH": os.environ["PATH"], "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "yes"}
    while not stopping:
        command, folders = cgroup.place(instance.cgroup, name)
        running = subprocess.Popen(
            [*command, "systemd-nspawn", *arguments], env=environment, preexec_fn=partial(cgroup.enter, folders)
        )
        code = running.wait()
        if code != _REBOOTED:
            return code
        cgroup.remove(instance.cgroup, name)
        network.attach(instance, name)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
