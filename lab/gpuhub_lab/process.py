"""Commands, background programs and network namespaces of the machine that carries the lab."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGE_ROOT = Path(__file__).resolve().parent.parent
_CLONE_NEWNET = 0x40000000
# struct flock: type, whence, start, length, pid (padded to 8 bytes).
_FLOCK = "hhqqi4x"


class LabError(Exception):
    """What the user has to know: printed without a traceback."""


def sh(*argv: str | Path, stdin: str | None = None, check: bool = True) -> str:
    """Run a command and return its standard output; if it fails and `check` is set, raise with what it said."""
    done = subprocess.run([str(a) for a in argv], input=stdin, capture_output=True, text=True)
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise LabError(f"{' '.join(str(a) for a in argv)} ended with {done.returncode}: {said}")
    return done.stdout


def wait_until(condition: Callable[[], object], seconds: float, pause: float = 0.02) -> bool:
    """Wait until `condition()` is true; False if it is not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
    return True


def alive(pid: int) -> bool:
    """Whether a process with this id runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone already."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock file `path`; `waiting` is called once if another process holds it. It ends with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Daemon:
    """A program of this package that runs in the background and holds a lock on its file as long as it lives.

    The lock is the only proof of life: the kernel drops it with the process and names its holder, so neither a
    killed program nor a process id used again by another program can be mistaken for it.
    """

    def __init__(self, lock: Path) -> None:
        self.lock = lock
        self.log = lock.with_suffix(".log")

    def pid(self) -> int | None:
        """Process id of the running program, None if there is none."""
        try:
            with self.lock.open("r+") as file:
                query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
                kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, query))
        except FileNotFoundError:
            return None
        return None if kind == fcntl.F_UNLCK else pid

    def hold(self) -> None:
        """In the program itself: declare it ready. A POSIX lock, which children do not inherit."""
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o600)  # never closed: that would end the lock
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def start(self, module: str, *arguments: str, seconds: float = 30) -> None:
        """Start `module` of this package in a session of its own and wait until it is ready."""
        self.lock.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            program = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.{module}", str(self.lock), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env={**os.environ, "PYTHONPATH": str(PACKAGE_ROOT)},
            )
        ready = wait_until(lambda: self.pid() == program.pid or program.poll() is not None, seconds, 0.01)
        if not ready or program.returncode is not None:
            kill(program.pid)
            raise LabError(f"{module} did not start: {self.log.read_text()[-500:].strip()} (all of it: {self.log})")

    def stop(self, seconds: float = 5) -> None:
        """End the program: by SIGTERM, and by SIGKILL if it is there after `seconds`."""
        pid = self.pid()
        if pid is None:
            return
        kill(pid, signal.SIGTERM)
        if not wait_until(lambda: self.pid() != pid, seconds):
            kill(pid)
            wait_until(lambda: self.pid() != pid, 5)


def join_network(namespace: str) -> None:
    """Move the calling thread into a named network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/run/netns", namespace).open() as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"cannot enter the network namespace {namespace}: {os.strerror(error)}")


def answers(address: str, port: int, greeting: bytes, seconds: float = 0.5) -> bool:
    """Whether a server at `address` begins with `greeting`, seen from the calling thread's network namespace."""
    try:
        with socket.create_connection((address, port), timeout=seconds) as connection:
            return connection.recv(len(greeting)) == greeting
    except OSError:
        return False
