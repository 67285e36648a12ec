"""A line now and then for tasks that take long."""

from __future__ import annotations

DOCUMENTATION = r"""
name: progress
type: notification
short_description: Say which tasks still run, on which hosts and for how long
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
description:
  - Shows a line for every task that has been running for ten seconds, and again while it goes on.
  - Tasks that show their own progress, such as M(gpuhub.platform.kube_ready), are left to themselves.
requirements:
  - C(callbacks_enabled = gpuhub.platform.progress) in the section C(defaults) of C(ansible.cfg)
"""

import threading
import time
from typing import Any

from ansible import constants
from ansible.plugins.callback import CallbackBase
from ansible_collections.gpuhub.platform.plugins.plugin_utils.running_tasks import RunningTasks

_SHOW_THEIR_OWN = ("gpuhub.platform.kube_ready", "gpuhub.platform.jupyterhub_smoke_test")
_TICK_SECONDS = 1


class CallbackModule(CallbackBase):
    """Notes what runs; a thread says what has been running for long."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "gpuhub.platform.progress"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, display: Any = None, options: Any = None) -> None:
        super().__init__(display, options)
        self._tasks, self._lock, self._over = RunningTasks(), threading.Lock(), threading.Event()

    def _speak(self) -> None:
        while not self._over.wait(_TICK_SECONDS):
            with self._lock:
                lines = self._tasks.due(time.monotonic())
            for line in lines:
                self._display.display(line, color=constants.COLOR_VERBOSE)

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Begin to watch."""
        threading.Thread(target=self._speak, name="progress", daemon=True).start()

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """End."""
        self._over.set()

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Note a task's begin on a host."""
        if task.action not in _SHOW_THEIR_OWN:
            with self._lock:
                self._tasks.start(task._uuid, task.get_name(), host.get_name(), time.monotonic())

    def _ended(self, result: Any) -> None:
        with self._lock:
            self._tasks.end(result.task._uuid, result.host.get_name())

    def _item(self, result: Any) -> None:
        with self._lock:
            self._tasks.item(result.task._uuid)

    def v2_runner_on_ok(self, result: Any) -> None:
        """Note a task's end on a host."""
        self._ended(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Note a task's end on a host."""
        self._ended(result)

    v2_runner_on_skipped = v2_runner_on_unreachable = v2_runner_on_ok
    v2_runner_item_on_ok = v2_runner_item_on_failed = v2_runner_item_on_skipped = _item
