"""What the machine that the lab runs on does not allow."""

from __future__ import annotations

import ctypes
import signal
from pathlib import Path

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def cannot_protect_from_oom() -> bool:
    """True where a process may not lower its own score (no CAP_SYS_RESOURCE)."""
    path = Path("/proc/self/oom_score_adj")
    before = path.read_text()
    try:
        path.write_text("-1")
        path.write_text(before)
    except PermissionError:
        return True
    return False


def die_with_parent() -> None:
    """For a child: no process outlives a supervisor that was killed."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
