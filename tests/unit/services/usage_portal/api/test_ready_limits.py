"""Limits that lie ready are answered without the routes, and nothing else is."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
import service_imports  # noqa: F401
from gpuhub_portal.ready import ReadyLimits
from gpuhub_portal.tokens import Token
from portals import problem, wait_for

PATH = "/users/alice/limits"
BODY = b'{"gpu_limit":1}'
RIGHTS = {"reader": {"limits:read"}, "administrator": {"admin"}, "writer": {"sessions:write"}}


def _ask(**changes) -> tuple[list[dict], dict]:
    """(messages sent, scope) of a request, where the routes send `passed on`."""

    def remembered(text: str) -> Token | None:
        return Token(text, frozenset(RIGHTS[text])) if text in RIGHTS else None

    async def routes(scope, receive, send) -> None:
        await send({"type": "passed on"})

    portal = SimpleNamespace(
        tokens=SimpleNamespace(remembered=remembered), limits=SimpleNamespace(ready={"alice": BODY}.get)
    )
    scope = {"type": "http", "method": "GET", "path": PATH, "headers": [(b"authorization", b"Bearer reader")]} | changes
    sent = []

    async def send(message) -> None:
        sent.append(message)

    asyncio.run(ReadyLimits(routes, portal)(scope, None, send))
    return sent, scope


@pytest.mark.parametrize(
    ("changes", "template"),
    [
        ({}, "/users/{username}/limits"),
        ({"path": f"/api/v1{PATH}"}, "/api/v1/users/{username}/limits"),
        ({"headers": [(b"host", b"x"), (b"authorization", b"bearer administrator")]}, "/users/{username}/limits"),
    ],
)
def test_what_lies_ready_is_sent(changes, template):
    (start, body), scope = _ask(**changes)
    assert start["status"] == 200 and dict(start["headers"]) == {
        b"content-length": b"15",
        b"content-type": b"application/json",
    }
    assert body == {"type": "http.response.body", "body": BODY}
    assert scope["route"].path == template and scope["state"]["actor"] in RIGHTS


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "websocket"},
        {"method": "PUT"},
        {"path": "/users/bob/limits"},
        {"path": "/users/alice/profiles"},
        {"path": "/users/alice/limits/"},
        {"path": "/x/users/alice/limits"},
        {"headers": []},
        {"headers": [(b"authorization", b"Bearer reader")] * 2},
        {"headers": [(b"authorization", b"Basic reader")]},
        {"headers": [(b"authorization", b"Bearer nobody")]},
        {"headers": [(b"authorization", b"Bearer writer")]},
    ],
    ids=str,
)
def test_all_else_goes_on(changes):
    sent, scope = _ask(**changes)
    assert sent == [{"type": "passed on"}] and "route" not in scope


def test_the_answers_are_those_of_the_routes(ledger, database, make_portal):
    portal = make_portal(database, cache_seconds=1).start()
    ledger.pod("p", "alice", gpu=1, cpu_milli=1500, memory_bytes=2**30)
    with portal.client() as admin:
        made = {
            scope: admin.post("/tokens", json={"name": scope, "scopes": [scope]}).json()["token"]
            for scope in ("limits:read", "sessions:read")
        }
        first, again = admin.get(PATH), admin.get(PATH)
        assert first.json()["usage"] == {"cpu_cores": 1.5, "memory_gib": 1, "gpu": 1}
        assert (again.content, again.headers["Content-Type"]) == (first.content, first.headers["Content-Type"])
        count = 'usage_portal_requests_total{method="GET",route="/users/{username}/limits",status="200"} 2.0'
        assert count in admin.get("/metrics").text
        ledger.sql("DELETE FROM allocation")
        wait_for("the answer to grow old", lambda: admin.get(PATH).json()["usage"]["gpu"] == 0)
    with portal.client(made["limits:read"]) as reader:
        assert reader.get(PATH).content == reader.get(PATH).content
        ledger.sql("UPDATE token SET revoked_at = now()")
        wait_for("the token to be forgotten", lambda: reader.get(PATH).status_code == 401)
    with portal.client(made["sessions:read"]) as other:
        problem(other.get(PATH), 401, "unauthorized")
