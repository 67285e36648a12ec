"""Whether this run of ansible-playbook has changed anything so far.

The callback `gpuhub.platform.changes` notes it in Ansible's own process; workers, in which templates are evaluated, are
forked from that and have it too.
"""

from __future__ import annotations


class RunChanges:
    """What is known of the changes of a run; None before anybody watches."""

    def __init__(self) -> None:
        self.made: bool | None = None

    def watch(self) -> None:
        """Begin to watch: from now on no news is no change."""
        self.made = self.made or False

    def note(self, changed: bool) -> None:
        """Note whether a task's result on a host was a change."""
        self.made = bool(self.made) or changed


RUN = RunChanges()
