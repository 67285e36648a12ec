"""What Prometheus scrapes, and the middleware that counts, times and logs requests."""

from __future__ import annotations

import logging
import time
import uuid
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import ProblemError

_log = logging.getLogger("gpuhub_portal.access")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Answered all the time by probes and by polling; logged only when they fail or at level DEBUG.
_QUIET = (
    "/healthz",
    "/readyz",
    "/readyz/collector",
    "/metrics",
    "/users/{username}/limits",
    "/api/v1/users/{username}/limits",
)


class Metrics:
    """The portal's own metrics, in a registry of their own so that tests can have several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "usage_portal_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "usage_portal_request_seconds",
            "Seconds until a request was answered",
            ["route"],
            buckets=(0.001, 0.005, 0.025, 0.1, 0.25, 1, 5, 15),
            registry=self.registry,
        )
        self.reservations = Counter(
            "usage_portal_reservations", "Answers to requests for a reservation", ["outcome"], registry=self.registry
        )
        self.refreshes = Counter(
            "usage_portal_limits_refreshes", "Times that limits and use were read again", registry=self.registry
        )
        self.denied = Counter(
            "usage_portal_denied", "Requests without a valid token or right", ["code"], registry=self.registry
        )

        self.known_at = Gauge(
            "usage_portal_known_at_timestamp_seconds",
            "Up to when the collector has recorded the cluster; 0: never did, NaN: the database is away",
            registry=self.registry,
        )

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class RequestMiddleware:
    """Counts, times and logs each request by its route's template: paths hold names, queries hold codes of logins."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._children: dict[tuple[str, str, int], Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting_status)
        except Exception:
            # What nobody foresaw. The client gets an identifier to ask with, and no text of ours.
            request_id = str(uuid.uuid4())
            _log.exception("a request failed", extra={"request_id": request_id, "route": _route(scope)})
            if not status:
                problem = ProblemError(
                    500, "failed", "The portal failed; its log has the reason.", request_id=request_id
                )
                await problem.response()(scope, receive, noting_status)
        finally:
            self._note(scope, status, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route, method = _route(scope), scope["method"] if scope["method"] in _METHODS else "other"
        children = self._children.get((method, route, status))
        if children is None:
            counter = self._metrics.requests.labels(method, route, str(status))
            children = self._children[method, route, status] = (counter, self._metrics.seconds.labels(route))
        children[0].inc()
        children[1].observe(seconds)
        level = logging.DEBUG if route in _QUIET and status < 400 else logging.INFO
        if _log.isEnabledFor(level):
            extra = {
                "method": method,
                "route": route,
                "status": status,
                "milliseconds": round(seconds * 1000, 1),
                "actor": scope.get("state", {}).get("actor", ""),
            }
            _log.log(level, "request", extra=extra)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


def _route(scope: Scope) -> str:
    """The template of the route that was found: few values, whatever is asked for."""
    route = scope.get("route")
    return getattr(route, "path", None) or "none"
