"""Notes whether a run has changed anything."""

from __future__ import annotations

DOCUMENTATION = r"""
name: changes
type: notification
short_description: Note whether a run has changed anything, for the lookup run_changed
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
description:
  - Notes every result that says V(changed) and shows nothing.
  - P(gpuhub.platform.run_changed#lookup) tells what was noted.
requirements:
  - C(callbacks_enabled = gpuhub.platform.changes) in the section C(defaults) of C(ansible.cfg)
"""

from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible_collections.gpuhub.platform.plugins.plugin_utils.run_changes import RUN


class CallbackModule(CallbackBase):
    """Watches results."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "gpuhub.platform.changes"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Begin to watch."""
        RUN.watch()

    def v2_runner_on_ok(self, result: Any) -> None:
        """Note a change."""
        RUN.note(bool(result.result.get("changed")))

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Note a change that was made before a task failed, and was rescued."""
        RUN.note(bool(result.result.get("changed")))
