"""What schemathesis is told of our formats: most times matter only near now, and random ones are long ago."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

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
    """What nobody finds by chance is there: rates that are withdrawn, every other extension, reservations to renew."""
    if case.method == "DELETE" and case.path.endswith("/policy/rates/{valid_from}"):
        rate = {"from": unquote(str(case.path_parameters["valid_from"])), "currency": "EUR"}
        _send("PUT", "policy/rates", {"rates": [rate]})
    if case.method == "DELETE" and case.path.endswith("/extensions/{username}"):
        username = str(case.path_parameters["username"])
        if len(unquote(username)) % 2:
            extension = {"until": _text(datetime.now(UTC) + timedelta(days=1)), "reason": "is withdrawn at once"}
            _send("PUT", f"extensions/{username}", extension)
    if case.method == "PUT" and case.path.endswith("/reservations/{reservation_id}/renew"):
        asked = str(case.path_parameters["reservation_id"])
        if re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{11}[02468ace]", asked):
            # Those that are known already are over by now. A key that is a UUID becomes the reservation's id.
            key = case.path_parameters["reservation_id"] = str(uuid4())
            _send("POST", "reservations", {"username": "renews", "granted": True}, **{"Idempotency-Key": key})


def _send(method: str, path: str, body: dict[str, Any], **headers: str) -> None:
    url, token = os.environ["PORTAL_URL"], os.environ["PORTAL_TOKEN"]
    httpx.request(method, f"{url}/api/v1/{path}", json=body, headers={"Authorization": f"Bearer {token}", **headers})
