"""Logs: one JSON object a line on standard output, without secrets."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from gpuhub_core.redaction import redact

# What PostgreSQL quotes of a row that it refuses: values of users, and maybe of secrets.
_DETAIL = re.compile(r"(?s)\nDETAIL:.*?(?=\n\[SQL|\nThe above exception|\nDuring handling|\Z)")
# Members of a record that a caller sets with `extra` and that are shown.
_FIELDS = ("request_id", "method", "route", "status", "milliseconds", "actor")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; known secrets, and whatever looks like one, are hidden in texts."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._secrets = sorted(secrets)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage(), self._secrets),
        }
        line |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info:
            text = _DETAIL.sub("", self.formatException(record.exc_info))
            line["exception"] = redact(text, self._secrets)
        return json.dumps(line, ensure_ascii=True, default=str)


def configure(level: str, secrets: Iterable[str]) -> None:
    """Send all logs of this process, uvicorn's too, through the formatter."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(secrets))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    # Its lines hold query strings, and with them codes of logins; requests are logged by `access`.
    logging.getLogger("uvicorn.access").disabled = True
    for name in ("httpx", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.Formatter.converter = time.gmtime
