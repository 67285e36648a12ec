"""Attributes that the modules of this collection share."""

from __future__ import annotations


class ModuleDocFragment:
    """Whether a module can predict, show and repeat its work."""

    DOCUMENTATION = r"""
attributes:
  check_mode:
    description: Can run in check mode and return what would change without changing it.
    support: full
  diff_mode:
    description: Returns what has changed, or would change in check mode, in diff mode.
    support: full
  idempotent:
    description: When run twice in a row with the same arguments, the second run changes nothing.
    support: full
"""
    READ_ONLY = r"""
attributes:
  check_mode:
    description: Changes nothing, so that it does the same in check mode.
    support: full
  diff_mode:
    description: Changes nothing, so that there is no difference to show.
    support: N/A
  idempotent:
    description: When run twice in a row with the same arguments, the second run changes nothing.
    support: full
"""
