"""What the command line does: bring a lab up and down, save and load it, run commands in it, remove it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from . import cgroup, network, packages, template
from .cache import CACHE, say
from .gpus import Gpus
from .host import Host
from .instance import GATEWAY, PORTS, Instance, address, names
from .process import Daemon, LabError, answers, join_network, kill, locked, sh, wait_until
from .storage import Storage

DEFAULT_WORKERS = 2
_URL = f"http://127.0.0.1:{PORTS[0]}/"
_BOOT_SECONDS = 180
# What `run` does before its command ($1: runtime files): the lab's resolver, and none of the labs' mounts, as a copy of
# them in here would keep them busy for as long as the command runs.
_BASTION = """
mount --bind "$1/resolv.conf" /etc/resolv.conf && mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf || exit 125
grep -E ' /(run|var/lib)/gpuhub-lab/' /proc/self/mounts | cut -d ' ' -f 2 | xargs -r umount -l
shift
exec "$@"
"""
_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
# Kubernetes' programs on three hosts need some hundreds; 128 is the kernel's default for all of a user's.
_INOTIFY_INSTANCES = 8192


class Lab:
    """One instance. Methods that change it take its lock, so that two commands never interfere."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.storage = Storage(instance)
        self.sink = Daemon(instance.run / "sink.lock")
        self.publisher = Daemon(instance.run / "publish.lock")
        self.lookups = instance.run / "lookups.jsonl"

    # Commands

    def up(
        self,
        workers: int | None = None,
        gpus: Mapping[str, Gpus] | None = None,
        suites: Mapping[str, str] | None = None,
    ) -> None:
        """Bring head and `workers` workers (None: as many as there were, at first DEFAULT_WORKERS) up.

        Hosts that run are left alone. Whatever an earlier, killed run left behind is cleared away first. `gpus` (host:
        what it has from its next boot on) and `suites` (host: what it is installed with) are remembered.
        """
        with self._locked():
            packages.ensure()
            self.storage.mount()
            if not self.storage.exists():
                self.storage.create()
            known = self.storage.facts()["workers"]
            if workers is None:
                workers = DEFAULT_WORKERS if known is None else known
            self._provide(names(workers), suites or {})
            if known is None or workers > known:
                self.storage.note(workers=workers)
            if gpus:
                self._equip(gpus)
            self._start([Host(self.instance, name) for name in names(workers)])

    def down(self) -> None:
        """Shut all hosts down and remove the network; what they wrote is kept."""
        with self._locked():
            self._stop(lambda host: host.stop())
            self._remove_network()

    def start(self, name: str) -> None:
        """Boot one host."""
        with self._locked():
            self._start([self._host(name)])

    def kill(self, name: str) -> None:
        """Crash one host: nothing is shut down or written out by it."""
        with self._locked():
            self._host(name).reap()

    def save(self, name: str) -> None:
        """Keep the state of all hosts and of the shared storage under a name."""
        with self._locked():
            self._need_state()
            self.storage.mount()
            self.storage.check_name(name)
            running = [host for host in self._hosts() if host.runs()]
            self._stop(lambda host: host.stop())
            try:
                self.storage.save(name)
            finally:
                if running:
                    self._start(running)

    def load(self, name: str, source: Instance | None = None) -> None:
        """Bring hosts and shared storage back to a saved state, of another lab if so; all its hosts run afterwards."""
        with self._locked():
            packages.ensure()
            self.storage.mount()
            if source:
                self.storage.fetch(name, source)
            self.storage.find_save(name)
            self._stop(lambda host: host.reap())
            self.storage.load(name)
            self._start(self._hosts())

    def publish(self, stop: bool) -> str | None:
        """Pass PORTS of this machine's loopback on to the head's; JupyterHub's URL, None once stopped."""
        with self._locked():
            if stop:
                self.publisher.stop()
                return None
            self._need_network()
            if self.publisher.pid() is None:
                for port in PORTS:
                    _refuse_taken_port(port)
                self.publisher.start("publish", self.instance.switch, address("head"), *map(str, PORTS))
            return _URL

    def clean(self) -> None:
        """Remove the instance: processes, mounts, cgroups, namespaces, its state and saves. Artefacts stay."""
        with self._locked():
            self._stop(lambda host: host.reap())
            cgroup.remove(self.instance.cgroup)
            self._end_bastion()
            self._remove_network()
            self.storage.destroy()
            shutil.rmtree(self.instance.run, ignore_errors=True)

    def status(self) -> dict[str, Any]:
        """`name`, `hosts` (name, os, address, state up|down, memory in bytes), `saves`, `published` (URL or None)."""
        return {
            "name": self.instance.name,
            "hosts": [
                {
                    "name": host.name,
                    "os": host.suite,
                    "address": host.address,
                    "state": "up" if host.runs() else "down",
                    "memory": cgroup.memory(self.instance.cgroup, host.name) or 0,
                }
                for host in self._hosts()
            ],
            "saves": self.storage.names(),
            "published": _URL if self.publisher.pid() else None,
        }

    def attempts(self, reset: bool) -> dict[str, Any]:
        """What tried to reach the outside: `lookups` and `packets`."""
        self._need_network()
        return {
            "lookups": self._read_lookups(reset),
            "packets": network.packets(self.instance, reset),
        }

    def execute(self, name: str, command: list[str]) -> None:
        """Replace this process by a command on a host, not over the network."""
        self._host(name).enter(command)

    def ssh(self, name: str, command: list[str]) -> None:
        """Replace this process by ssh to a host."""
        self._host(name)
        self._need_network()
        argv = ["ssh", "-F", str(self.instance.run / "ssh_config"), name, *command]
        os.execvp("nsenter", ["nsenter", f"--net=/run/netns/{self.instance.switch}", "--", *argv])

    def run(self, command: list[str]) -> int:
        """Run a command as the bastion would, in the switch's network, with the sink as resolver; its exit code."""
        self._need_network()
        run = self.instance.run
        enter = ["nsenter", f"--net=/run/netns/{self.instance.switch}", "--"]
        enter += ["unshare", "--mount", "--propagation", "slave", "--", "sh", "-c"]
        argv = [*enter, _BASTION, "sh", str(run), *command]
        environment = {
            **os.environ,
            "GPUHUB_LAB_NAME": self.instance.name,
            "GPUHUB_LAB_RUN": str(run),
            "GPUHUB_LAB_OUTSIDE": str(os.getpid()),
            # Labs have the same addresses: a connection that Ansible keeps open must not serve another lab.
            "ANSIBLE_SSH_CONTROL_PATH_DIR": os.environ.get("ANSIBLE_SSH_CONTROL_PATH_DIR") or str(run / "ssh"),
        }
        # This process stays outside: a lab command inside finds the machine's namespaces by it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Open files are handed on: a browser is driven over a pipe that its parent opened.
        inside = subprocess.Popen(
            argv, env=environment, close_fds=False, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        )
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda received, _: inside.send_signal(received))
        code = inside.wait()
        return 128 - code if code < 0 else code

    # Parts

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.instance.lock, lambda: say(f"waiting for another command on the lab {self.instance.name}"))

    def _hosts(self) -> list[Host]:
        workers = self.storage.facts()["workers"] if self.storage.exists() else None
        return [] if workers is None else [Host(self.instance, name) for name in names(workers)]

    def _remains(self) -> list[Host]:
        """All hosts that may have left something, even if the state that names them is another one by now."""
        left = {path.parent.name for path in self.instance.run.glob("*/root")} | {host.name for host in self._hosts()}
        return [Host(self.instance, name) for name in sorted(left)]

    def _host(self, name: str) -> Host:
        host = Host(self.instance, name)
        self._need_state()
        known = [h.name for h in self._hosts()]
        if name not in known:
            raise LabError(f"the lab {self.instance.name} has no host {name}; it has: {', '.join(known)}")
        return host

    def _need_state(self) -> None:
        if not self.storage.exists():
            raise LabError(f"there is no lab {self.instance.name}; make it by `lab up`")

    def _need_network(self) -> None:
        if not network.switch_is_up(self.instance):
            raise LabError(f"the lab {self.instance.name} is down; bring it up by `lab up`")

    def _provide(self, hosts: list[str], suites: Mapping[str, str]) -> None:
        """Have a template for each host, and remember `suites`."""
        for name, suite in suites.items():
            host = Host(self.instance, name)
            if host.made() and host.suite != suite:
                raise LabError(
                    f"{name} is installed with {host.suite} and stays so; for {suite} begin with `lab clean`"
                )
        chosen = {**self.storage.facts()["os"], **suites}
        templates = self.storage.templates()
        for suite in sorted({template.of(name, chosen) for name in hosts}):
            if suite not in templates:
                self.storage.use(suite, template.build(suite))
            elif not template.is_newest(suite, templates[suite]):
                say(f"hosts with {suite} keep their template; `lab clean`, then `lab up`, for the newer one")
        self.storage.note(os=chosen)

    def _equip(self, gpus: Mapping[str, Gpus]) -> None:
        self.storage.note(gpus={**self.storage.facts()["gpus"], **{host: str(found) for host, found in gpus.items()}})
        for name in gpus:
            if Host(self.instance, name).runs():
                say(f"{name} runs: it has these GPUs from its next `lab start`, after `lab kill` or `lab down`")

    def _start(self, hosts: Iterable[Host]) -> None:
        """Start network, sink and those hosts that do not run, and wait until ssh answers on all."""
        if not network.switch_is_up(self.instance):
            network.create_switch(self.instance)
        self._write_runtime_files()
        if self.sink.pid() is None:
            self.sink.start("sink", self.instance.switch, str(self.lookups))
        stopped = [host for host in hosts if not host.runs()]
        if not stopped:
            return
        say(f"starting {', '.join(host.name for host in stopped)}")
        _raise_inotify_limit()
        started = time.monotonic()
        with ThreadPoolExecutor(len(stopped)) as pool:
            list(pool.map(lambda host: host.start(), stopped))
        with ThreadPoolExecutor(len(stopped), initializer=join_network, initargs=(self.instance.switch,)) as pool:
            ready = list(
                pool.map(
                    lambda host: (
                        wait_until(
                            lambda: answers(host.address, 22, b"SSH-2.0-") or host.supervisor.pid() is None,
                            _BOOT_SECONDS,
                        )
                        and host.supervisor.pid() is not None
                    ),
                    stopped,
                )
            )
        for host, answered in zip(stopped, ready, strict=True):
            if not answered:
                raise LabError(
                    f"{host.name} does not answer on port 22 after {_BOOT_SECONDS} s; it said: "
                    f"{host.supervisor.log.read_text()[-800:].strip()} (all of it: {host.supervisor.log})"
                )
        self._write_known_hosts()
        say(f"{', '.join(host.name for host in stopped)} ready after {time.monotonic() - started:.1f} s")

    def _stop(self, how: Callable[[Host], None]) -> None:
        hosts = self._remains()
        running = [host.name for host in hosts if host.runs()]
        if running:
            say(f"stopping {', '.join(running)}")
        with ThreadPoolExecutor(max(1, len(hosts))) as pool:
            list(pool.map(how, hosts))

    def _remove_network(self) -> None:
        self.publisher.stop()
        self.sink.stop()
        for host in self._remains():
            network.detach(self.instance, host.name)
        network.remove_switch(self.instance)

    def _end_bastion(self) -> None:
        """End what still runs in the switch's network, such as a browser that lost its test; not our own ancestors."""
        listed = sh("ip", "netns", "pids", self.instance.switch, check=False).split()
        spared = set()
        pid = os.getpid()
        while pid > 1:
            spared.add(pid)
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        for left in {int(pid) for pid in listed} - spared:
            kill(left)

    def _write_runtime_files(self) -> None:
        run = self.instance.run
        run.mkdir(parents=True, exist_ok=True)
        (run / "resolv.conf").write_text(f"nameserver {GATEWAY}\n")
        # Only this: other sources, such as systemd-resolved, would ask over a socket outside the lab's network.
        (run / "nsswitch.conf").write_text("passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n")
        if not (run / "id.pub").exists():
            # A copy that stays: hosts that run know this key, whatever cache the next command uses.
            key = _ssh_key()
            shutil.copyfile(key, run / "id")
            (run / "id").chmod(0o600)
            shutil.copyfile(key.with_suffix(".pub"), run / "id.pub")
        lines = [
            "Host *",
            "  User root",
            f"  IdentityFile {run}/id",
            "  IdentitiesOnly yes",
            f"  UserKnownHostsFile {run}/known_hosts",
            "  GlobalKnownHostsFile /dev/null",
            "  StrictHostKeyChecking yes",
            "  LogLevel ERROR",
        ]
        for host in self._hosts():
            lines += [f"Host {host.name}", f"  HostName {host.address}"]
        (run / "ssh_config").write_text("\n".join(lines) + "\n")

    def _read_lookups(self, reset: bool) -> list[dict[str, Any]]:
        if not self.lookups.exists():
            return []
        with self.lookups.open("r+") as file:
            found = [json.loads(line) for line in file]
            if reset:
                file.truncate(0)
        return found

    def _write_known_hosts(self) -> None:
        lines = []
        for host in self._hosts():
            for key in sorted((host.root / "etc/ssh").glob("ssh_host_*_key.pub")):
                kind, value = key.read_text().split()[:2]
                lines.append(f"{host.name},{host.address} {kind} {value}\n")
        (self.instance.run / "known_hosts").write_text("".join(lines))


def _refuse_taken_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise LabError(
                f"127.0.0.1:{port} cannot be had on this machine: {error.strerror}. "
                f"If another lab is published, end that by its `lab publish --stop`"
            ) from error


def _ssh_key() -> Path:
    key = CACHE / "keys" / "id"
    with locked(CACHE / "keys" / ".lock"):
        if not key.exists():
            partial = CACHE / "keys" / "new"
            partial.unlink(missing_ok=True)
            sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "gpuhub-lab", "-f", partial)
            partial.with_suffix(".pub").rename(key.with_suffix(".pub"))
            partial.rename(key)
    return key


def _raise_inotify_limit() -> None:
    if int(_INOTIFY.read_text()) < _INOTIFY_INSTANCES:
        _INOTIFY.write_text(str(_INOTIFY_INSTANCES))


def leave_run(argv: list[str]) -> None:
    """Inside `lab run`, go on in the machine's own namespaces: hosts' mounts and interfaces belong there."""
    outside = os.environ.pop("GPUHUB_LAB_OUTSIDE", None)
    if outside is None:
        return
    if not Path(f"/proc/{outside}/ns").exists():
        raise LabError("the `lab run` that started this has ended; call lab from a shell outside")
    os.execvp(
        "nsenter",
        [
            "nsenter",
            f"--mount=/proc/{outside}/ns/mnt",
            f"--net=/proc/{outside}/ns/net",
            f"--wd={Path.cwd()}",
            "--",
            *argv,
        ],
    )
