"""Interrupts ansible-playbook at a task, as a lost bastion, host, cable or disk would.

The story so far is a file of tasks, one a line, that several runs continue: a task counts when no run before has begun
it. So a chain of interrupted runs gets further with each.

GPUHUB_INTERRUPT_STORY   that file
GPUHUB_INTERRUPT_AT      interrupt when so many tasks have begun; without it only the story is written
GPUHUB_INTERRUPT_AFTER   seconds after that task's begin; 0 is before it begins
GPUHUB_INTERRUPT_BY      a shell command that does the harm; without it everything of this run is killed
GPUHUB_INTERRUPT_LEAVE   seconds until everything of this run is killed after the harm
GPUHUB_INTERRUPT_RUN     a text that no other process has in its environment
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: interrupt
type: notification
short_description: Interrupt a playbook, for tests
description: See the top of the file.
"""


def identity(task) -> str:
    """A task by its place and the places of what included it."""
    places = []
    while task is not None:
        if hasattr(task, "action"):
            places.append(task.get_path())
        task = task._parent
    return " < ".join(place.rpartition("/platform/")[2] for place in places)


def kill_this_run() -> None:
    """Kill Ansible, then every process that has this run's mark: its workers, its connections."""
    mark, main = f"GPUHUB_INTERRUPT_RUN={os.environ['GPUHUB_INTERRUPT_RUN']}".encode(), os.getpid()
    if os.fork():  # the child does it: Ansible first, which would report that it has lost its workers
        time.sleep(60)
    os.kill(main, signal.SIGKILL)
    for _ in range(2):  # what one has started while the others were looked at
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if int(process.name) != os.getpid() and mark in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)
            except OSError:
                continue  # it has ended
    os._exit(0)


class CallbackModule(CallbackBase):
    """Counts tasks and strikes."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "interrupt"

    def __init__(self) -> None:
        super().__init__()
        self._story = Path(os.environ["GPUHUB_INTERRUPT_STORY"])
        self._begun = set(self._story.read_text().splitlines()) if self._story.exists() else set()
        self._at = int(os.environ.get("GPUHUB_INTERRUPT_AT") or 0)
        self._play = ""

    def v2_playbook_on_play_start(self, play):
        self._play = play.get_name()

    def v2_playbook_on_task_start(self, task, is_conditional):
        line = f"{self._play}: {task.get_name()} ({identity(task)})"
        if line in self._begun:
            return
        self._begun.add(line)
        with self._story.open("a") as story:
            story.write(line + "\n")
        if len(self._begun) == self._at:
            after = float(os.environ.get("GPUHUB_INTERRUPT_AFTER") or 0)
            if after:
                timer = threading.Timer(after, self._strike)
                timer.daemon = True
                timer.start()
            else:
                self._strike()

    def v2_playbook_on_handler_task_start(self, task):
        self.v2_playbook_on_task_start(task, False)

    def _strike(self) -> None:
        harm = os.environ.get("GPUHUB_INTERRUPT_BY")
        if harm:
            subprocess.run(harm, shell=True, check=True)
            threading.Thread(target=self._leave, daemon=True).start()
        else:
            kill_this_run()

    def _leave(self) -> None:
        time.sleep(float(os.environ.get("GPUHUB_INTERRUPT_LEAVE") or 0))
        kill_this_run()
