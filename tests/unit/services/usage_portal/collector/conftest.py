"""What the collector's tests share."""

from __future__ import annotations

import service_imports  # noqa: F401
