"""The chart's values, for the hub's configuration and for `hub.extraConfig`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

SECRET = Path("/usr/local/etc/jupyterhub/secret")


@lru_cache(maxsize=1)
def _values() -> dict[str, Any]:
    return yaml.safe_load((SECRET / "values.yaml").read_text())


def get_config(key: str, default: Any = None) -> Any:
    """Return the value at a dotted key, or `default` where there is none."""
    value: Any = _values()
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return default
        value = value[part]
    return value


def get_secret_value(key: str) -> str:
    """Return an entry of the chart's Secret."""
    return (SECRET / key).read_text()
