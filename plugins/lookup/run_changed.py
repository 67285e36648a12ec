"""Lookup of whether this run has changed anything."""

from __future__ import annotations

DOCUMENTATION = r"""
name: run_changed
author: The gpuhub.platform authors (@gpuhub)
version_added: 0.1.0
short_description: Whether this run has changed anything so far
description:
  - Returns V(true) if a task of this run of C(ansible-playbook) has reported a change on any host.
  - Returns V(true) as well if nobody knows, because the callback P(gpuhub.platform.changes#callback) is not enabled.
options:
  _terms:
    description: None.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Prove what was changed
  ansible.builtin.uri:
    url: http://192.0.2.11:30080/hub/api
  when: lookup('gpuhub.platform.run_changed')
"""

RETURN = r"""
_raw:
  description: One value.
  type: list
  elements: bool
"""

from typing import Any

from ansible.plugins.lookup import LookupBase
from ansible_collections.gpuhub.platform.plugins.plugin_utils.run_changes import RUN


class LookupModule(LookupBase):
    """The lookup plugin."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[bool]:
        """Return what is known, and a change where nothing is."""
        return [RUN.made is not False]
