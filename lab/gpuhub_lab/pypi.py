"""This interpreter's pip, with the lab's cache of downloads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .cache import CACHE
from .process import LabError


def pip(*arguments: str | Path) -> None:
    """Run pip; if it fails, LabError with what it said."""
    environment = os.environ | {"PIP_CACHE_DIR": str(CACHE / "pip"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise LabError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}")
