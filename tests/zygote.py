"""Python processes that have imported already what they need: forks of one that has, which takes less than starting.

What they run is what `python -m MODULE` runs, with arguments, an environment, a folder and files of their own. This
file is also the program of that one process, the zygote; it ends with whoever started it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

_MESSAGE = 1 << 17
# Of subprocess.Popen where the zygote does not say it: it has ended itself.
_LOST = -int(signal.SIGHUP)


class Process:
    """One of them, which is used like subprocess.Popen."""

    def __init__(self, channel: socket.socket, args: list[str], stderr: IO[str] | None) -> None:
        self.args, self.stderr, self.returncode = args, stderr, None
        self._channel = channel
        self.pid = int(channel.recv(64) or 0)
        assert self.pid, "the zygote is gone"

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, once it has ended."""
        if self._ended(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._channel], [], [], timeout)[0]:
            answer = self._channel.recv(64)
            self.returncode = int(answer) if answer else _LOST
            self._channel.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            # It may have ended just now.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Zygote:
    """Start it with `with`; it imports `modules` with `python_path` in front, and sees `variables` while it does."""

    def __init__(self, python_path: str, modules: Sequence[str], **variables: str) -> None:
        self._modules, self._variables = modules, {"PYTHONPATH": python_path, **variables}

    def __enter__(self) -> Zygote:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, __file__, str(theirs.fileno()), *self._modules]
        environment = os.environ | self._variables
        with theirs:
            self._process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.wait()

    def start(
        self, arguments: Sequence[str], env: dict[str, str], cwd: Path | None, stdout: IO, stderr: IO | int
    ) -> Process:
        """Run `python -m ARGUMENTS`; `stderr` may be subprocess.PIPE."""
        read = write = None
        if stderr == subprocess.PIPE:
            read, write = os.pipe()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        message = {"arguments": list(arguments), "environment": env, "folder": str(cwd or Path.cwd())}
        files = [stdout.fileno(), stderr.fileno() if write is None else write, theirs.fileno()]
        with theirs:
            socket.send_fds(self._socket, [json.dumps(message).encode()], files)
        if write is not None:
            os.close(write)
        return Process(ours, ["python", "-m", *arguments], None if read is None else os.fdopen(read, "r"))

    def run(self, arguments: Sequence[str], env: dict[str, str], timeout: float) -> subprocess.CompletedProcess:
        """Run it to its end, as subprocess.run does with capture_output."""
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            process = self.start(arguments, env, None, stdout, stderr)
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            for file in (stdout, stderr):
                file.seek(0)
            return subprocess.CompletedProcess(process.args, process.returncode, stdout.read(), stderr.read())


def _requests(requests: socket.socket) -> dict:
    """Fork for each request, and return in the fork what it is to run."""
    # Nobody waits for those that wait for their forks.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, files, _, _ = socket.recv_fds(requests, _MESSAGE, 3)
        if not message:
            sys.exit()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            return _fork(json.loads(message), *files)
        for file in files:
            os.close(file)


def _fork(request: dict, stdout: int, stderr: int, channel: int) -> dict:
    """Return in one more fork, for which this one waits and whose end it tells."""
    pid = os.fork()
    if pid:
        os.close(stdout)
        os.close(stderr)
        with socket.socket(fileno=channel) as told:
            told.send(str(pid).encode())
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            told.send(str(status).encode())
        os._exit(0)
    os.close(channel)
    for number, file in ((1, stdout), (2, stderr)):
        os.dup2(file, number)
        os.close(file)
    return request


def main() -> None:
    descriptor, *modules = sys.argv[1:]
    # Where this file is belongs to nobody's path.
    sys.path.pop(0)
    for name in modules:
        importlib.import_module(name)
    request = _requests(socket.socket(fileno=int(descriptor)))
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    sys.path.insert(0, request["folder"])
    sys.argv = request["arguments"]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
