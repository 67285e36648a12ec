"""Runs the module of the same name on the control node, and shows every few seconds how far it is."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

#: Seconds without a word. What is over sooner needs none.
INTERVAL = 10


class ActionModule(ActionBase):
    """The module's results, untouched."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module; meanwhile a thread shows what it writes about its progress."""
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        done = threading.Event()
        with tempfile.NamedTemporaryFile(prefix="gpuhub-progress-") as file:
            if self._connection.transport == "local":
                arguments["progress"] = file.name
            watcher = threading.Thread(target=show, args=(Path(file.name), done), daemon=True)
            watcher.start()
            try:
                result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
            finally:
                done.set()
                watcher.join()
        return result


def show(file: Path, done: threading.Event) -> None:
    """Display the content of `file` whenever it has changed, until `done`."""
    shown = ""
    while not done.wait(INTERVAL):
        text = file.read_text(encoding="utf-8")
        if text != shown:
            Display().display(text)
            shown = text
