"""The control node's part of the module preflight: only here it is known when the host's clock was read."""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Runs the module between two looks at the control node's clock."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result with `offset`, the bounds of the host's clock minus ours in seconds."""
        result = super().run(tmp, task_vars)
        before = time.time()
        result.update(self._execute_module("gpuhub.platform.preflight", self._task.args, task_vars=task_vars))
        after = time.time()
        if "facts" in result:
            clock = result["facts"]["clock"]
            result["offset"] = [clock - after, clock - before]
        return result
