"""Callback that notes every module that a play executes, and where. For measuring, not for use."""

from __future__ import annotations

import json
import os
import time
from functools import wraps
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: module_executions
type: aggregate
short_description: Every module execution as one JSON line
description:
  - Appends host, task, module, connection and seconds of each execution to a file. An action that executes several
    modules, such as M(ansible.builtin.copy), or a loop counts as often as it connects.
options:
  path:
    description: The file.
    type: path
    required: true
    env: [{name: MODULE_EXECUTIONS}]
"""


class CallbackModule(CallbackBase):
    """Notes in the workers, which are forks of the process that loads this."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "module_executions"

    def set_options(self, *args: Any, **kwargs: Any) -> None:
        """Put the note around the one door to all modules."""
        super().set_options(*args, **kwargs)
        path = self.get_option("path")
        execute = ActionBase._execute_module

        @wraps(execute)
        def noted(action: ActionBase, module_name: str | None = None, *arguments: Any, **settings: Any) -> Any:
            began = time.monotonic()
            try:
                return execute(action, module_name, *arguments, **settings)
            finally:
                variables = settings.get("task_vars") or {}
                line = {
                    "host": action._task.delegate_to or variables.get("inventory_hostname", ""),
                    "role": action._task._role.get_name() if action._task._role else "",
                    "task": action._task.name,
                    "module": module_name or action._task.action,
                    "connection": action._connection.transport,
                    "seconds": round(time.monotonic() - began, 3),
                }
                # One write of less than a page to a file opened for appending: lines of parallel workers stay whole.
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                os.write(descriptor, json.dumps(line).encode() + b"\n")
                os.close(descriptor)

        ActionBase._execute_module = noted
