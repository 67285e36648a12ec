"""The lab's artefacts by name; each module is imported only when its artefact is wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

from . import packages
from .process import LabError

# In the order in which they can be built: each may use the ones before it. A module of this package has `build()`.
NAMES = ("kube", "gpus", "template", "snaps", "images", "wheels", "debs", "chart", "bundle")
# Those that need nothing but Go.
COMPILED = ("kube", "gpus")


def build_all(names: Iterable[str] = NAMES) -> Iterator[Path]:
    """Build artefacts side by side, and return the folder of each in their order.

    Downloads of one overlap with the compiling of another, which begins while this machine's packages are installed.
    Each waits for those that it uses.
    """
    wanted = list(names)
    with ThreadPoolExecutor(len(wanted)) as pool:
        builds = {name: pool.submit(build, name) for name in wanted if name in COMPILED}
        packages.ensure()
        builds |= {name: pool.submit(build, name) for name in wanted if name not in COMPILED}
        for name in wanted:
            yield builds[name].result()


def build(name: str) -> Path:
    """Build artefact `name` unless it is there already, and return its folder."""
    if name not in NAMES:
        raise LabError(f"no artefact is called {name!r}; there are: {', '.join(NAMES)}")
    try:
        module = import_module(f".{name}", __package__)
    except ModuleNotFoundError as error:
        raise LabError(f"artefact {name} cannot be built: there is no Python module {error.name}") from error
    return module.build()
