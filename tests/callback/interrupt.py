"""Cuts a run of ansible-playbook off at a task, as a lost control node, host, cable or disk would. For tests.

GPUHUB_INTERRUPT is a JSON object that no other process has in its environment:

story     a file with a line for each task that has begun in a chain of runs; this run continues it
at        the run is cut off at the task with which the story has so many lines
after     seconds from that task's begin; 0 is before it does anything
harm      a shell command that is run then; empty for none
patience  seconds from the harm until everything that belongs to this run is killed
"""

from __future__ import annotations

import json
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
short_description: Cut a run off at a task
description: See the top of the file.
"""


def place(task) -> str:
    """Where a task is written, and what has included it from where."""
    places = []
    while task is not None:
        if hasattr(task, "action"):
            places.append(task.get_path())
        task = task._parent
    return " < ".join(path.rpartition("/platform/")[2] for path in places)


def kill_this_run() -> None:
    """Kill Ansible, then every process that has its environment: the lab's command, workers, connections."""
    mark, main = f"GPUHUB_INTERRUPT={os.environ['GPUHUB_INTERRUPT']}".encode(), os.getpid()
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
        self._settings = json.loads(os.environ["GPUHUB_INTERRUPT"])
        self._story = Path(self._settings["story"])
        self._begun = set(self._story.read_text().splitlines()) if self._story.exists() else set()
        self._play = ""

    def v2_playbook_on_play_start(self, play):
        self._play = play.get_name()

    def v2_playbook_on_task_start(self, task, is_conditional):
        line = f"{self._play}: {task.get_name()} ({place(task)})"
        # What begins until the run is dead is left for the next one.
        if line in self._begun or len(self._begun) == self._settings["at"]:
            return
        self._begun.add(line)
        with self._story.open("a") as story:
            story.write(line + "\n")
        if len(self._begun) == self._settings["at"]:
            strike = threading.Timer(self._settings["after"], self._strike)
            strike.daemon = True
            strike.start()
            if not self._settings["after"]:
                strike.join()

    def v2_playbook_on_handler_task_start(self, task):
        self.v2_playbook_on_task_start(task, False)

    def _strike(self) -> None:
        if self._settings["harm"]:
            if subprocess.run(self._settings["harm"], shell=True).returncode:
                os._exit(1)  # it is not what the test takes for a run that was cut off
            time.sleep(self._settings["patience"])
        kill_this_run()
