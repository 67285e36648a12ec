"""Imported for its effect: `gpuhub_portal` can be imported, and `gpuhub_core`, which is the collection's own core."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

_REPOSITORY = Path(__file__).resolve().parents[1]
_SERVICE = str(_REPOSITORY / "services" / "usage_portal")

if _SERVICE not in sys.path:
    sys.path.insert(0, _SERVICE)
if "gpuhub_core" not in sys.modules:
    # As in the archive: the same files, under the package's name.
    _core = ModuleType("gpuhub_core")
    _core.__path__ = [str(_REPOSITORY / "plugins" / "module_utils")]
    sys.modules["gpuhub_core"] = _core
