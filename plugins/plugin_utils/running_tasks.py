"""Which tasks run, where, for how long, and when it is time to say so. Pure; the clock is the caller's."""

from __future__ import annotations

from collections.abc import Iterable

# A first word after ten seconds, then every ten; after a minute every half.
SOON, LATER, MINUTE = 10, 30, 60


class RunningTask:
    """One task on the hosts that it still runs on."""

    def __init__(self, name: str, now: float) -> None:
        self.name, self._started, self._said = name, now, now
        self.hosts: list[str] = []
        self._items = 0

    def line(self, now: float) -> str:
        """Return what a person wants to know of it."""
        items = f", {self._items} items done" if self._items else ""
        return f"running: [{_some(self.hosts)}] {now - self._started:.0f} s: {self.name}{items}"


class RunningTasks:
    """All tasks that run, by an identity of the caller's choice. Times are seconds of any clock."""

    def __init__(self) -> None:
        self._tasks: dict[str, RunningTask] = {}

    def start(self, task: str, name: str, host: str, now: float) -> None:
        """Note that a task began on a host."""
        running = self._tasks.setdefault(task, RunningTask(name, now))
        if host not in running.hosts:
            running.hosts.append(host)

    def item(self, task: str) -> None:
        """Note that an item of a task's loop is done."""
        if task in self._tasks:
            self._tasks[task]._items += 1

    def end(self, task: str, host: str) -> None:
        """Note that a task ended on a host."""
        running = self._tasks.get(task)
        if running and host in running.hosts:
            running.hosts.remove(host)
            if not running.hosts:
                del self._tasks[task]

    def due(self, now: float) -> list[str]:
        """Return the lines that are to be shown now."""
        lines = []
        for task in self._tasks.values():
            pause = SOON if now - task._started < MINUTE + SOON else LATER
            if now - task._said >= pause:
                task._said = now
                lines.append(task.line(now))
        return lines


def _some(hosts: Iterable[str], limit: int = 4) -> str:
    """Return the names of some hosts and the number of the others."""
    names = list(hosts)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
