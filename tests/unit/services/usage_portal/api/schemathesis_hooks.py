"""What schemathesis is told of our formats: most times matter only near now, and random ones are long ago."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

import httpx
import schemathesis
from hypothesis import strategies as st


def _text(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:00:00Z")


_now = datetime.now(UTC)
_near = st.integers(-48, 24 * 30).map(lambda hours: _text(_now + timedelta(hours=hours)))
_any = st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31)).map(_text)

schemathesis.openapi.format("date-time", st.one_of(_near, _any))


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """Most rates have the currency of the first; random ones would all be refused."""
    rates = body.get("rates") if context.operation.path.endswith("/policy/rates") and isinstance(body, dict) else None
    for rate in rates if isinstance(rates, list) else []:
        currency = rate.get("currency") if isinstance(rate, dict) else None
        # What is no currency has to stay what it is: it must be refused.
        if isinstance(currency, str) and re.fullmatch("[A-R][A-Z]{2}", currency):
            rate["currency"] = "EUR"
    return body


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """A rate can be withdrawn if there is one that begins then; nobody finds the hour by chance."""
    if case.method == "DELETE" and case.path.endswith("/policy/rates/{valid_from}"):
        url, token = os.environ["PORTAL_URL"], os.environ["PORTAL_TOKEN"]
        headers = {"Authorization": f"Bearer {token}"}
        rate = {"from": unquote(str(case.path_parameters["valid_from"])), "currency": "EUR"}
        httpx.put(f"{url}/api/v1/policy/rates", json={"rates": [rate]}, headers=headers)
