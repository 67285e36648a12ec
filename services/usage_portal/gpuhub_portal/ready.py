"""Answers of `GET /users/{username}/limits` that lie ready are sent at once, without the way through the routes.

It is what hubs and other portals ask most. A request that is anything but that, with a token that was recognised a
moment ago, goes on to the routes: they check names, tell all errors, and make what lies ready.
"""

from __future__ import annotations

import re
from types import SimpleNamespace

from starlette.types import ASGIApp, Receive, Scope, Send

from .auth import Principal
from .portal import Portal
from .scopes import Scope as Right

_PATH = re.compile(r"((?:/api/v1)?/users/)([^/]+)/limits")


class ReadyLimits:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, portal: Portal) -> None:
        self._app, self._portal = app, portal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = self._ready(scope) if scope["type"] == "http" and scope["method"] == "GET" else None
        if body is None:
            await self._app(scope, receive, send)
            return
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _ready(self, scope: Scope) -> bytes | None:
        found = _PATH.fullmatch(scope["path"])
        # Names of headers are in lower case.
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        if found is None or len(sent) != 1:
            return None
        scheme, _, text = sent[0].decode("latin-1").partition(" ")
        token = self._portal.tokens.remembered(text) if scheme.lower() == "bearer" else None
        if token is None or not Principal(token.name, token.scopes).has(Right.LIMITS_READ):
            return None
        body = self._portal.limits.ready(found[2])
        if body is not None:
            # For metrics and the log, as routes do it.
            scope["route"] = SimpleNamespace(path=f"{found[1]}{{username}}/limits")
            scope.setdefault("state", {})["actor"] = token.name
        return body
