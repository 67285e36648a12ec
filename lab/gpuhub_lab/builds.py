"""The lab's artefacts by name; each module is imported only when its artefact is wanted."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from .process import LabError

# In the order in which they can be built: each may use the ones before it. A module of this package has `build()`.
NAMES = ("kube", "gpus", "template", "snaps", "images", "wheels", "debs", "chart", "bundle")


def build(name: str) -> Path:
    """Build artefact `name` unless it is there already, and return its folder."""
    if name not in NAMES:
        raise LabError(f"no artefact is called {name!r}; there are: {', '.join(NAMES)}")
    try:
        module = import_module(f".{name}", __package__)
    except ModuleNotFoundError as error:
        raise LabError(f"artefact {name} cannot be built: there is no Python module {error.name}") from error
    return module.build()
