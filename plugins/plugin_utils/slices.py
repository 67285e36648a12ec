"""A module that waits, run in slices, so that people see what it waits for."""

from __future__ import annotations

import time
from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# Under the ten seconds after which silence makes people wonder.
SLICE_SECONDS = 8

display = Display()


class SlicedModule(ActionBase):
    """Runs the module of the same name until its result says no more that it is `waiting`, and shows that line.

    The module has the option `slice`, seconds after which it returns in any case. It fails by itself when its time is
    over.
    """

    TRANSFERS_FILES = False

    def further(self, result: dict[str, Any], waited: float) -> tuple[str, dict[str, Any]]:
        """Module and arguments of the next execution, when `result` is the last one's and `waited` seconds are over.

        As they are here the module has an option `waited` too, seconds that earlier executions took.
        """
        return self._task.resolved_action, {**self._task.args, "waited": waited}

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the result of the last execution."""
        super().run(tmp, task_vars)
        started = time.monotonic()
        module, arguments = self._task.resolved_action, self._task.args
        while True:
            result = self._execute_module(
                module_name=module, module_args={**arguments, "slice": SLICE_SECONDS}, task_vars=task_vars
            )
            if "waiting" not in result:
                return result
            host = (task_vars or {}).get("inventory_hostname", "")
            # Ansible prints a task's heading with its first result only, so the line must name the task itself.
            line = f"waiting: [{host}] {self._task.get_name()}: {result['waiting']}"
            display.display(line, color=constants.COLOR_VERBOSE)
            module, arguments = self.further(result, round(time.monotonic() - started, 1))
