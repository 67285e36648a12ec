"""Errors as clients see them: application/problem+json (RFC 9457). Only the text of a ProblemError reaches them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from .database import SchemaError, UnavailableError

_log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
# Seconds after which a client may try again when the database is away.
RETRY_AFTER = 5


class ProblemDocument(BaseModel):
    """Why a request was not done."""

    model_config = ConfigDict(extra="allow", title="Problem")

    type: str = Field(description="`urn:gpuhub:problem:` and the code")
    title: str
    status: int = Field(ge=400, le=599)
    code: str = Field(description="What programs compare; documented in docs/api.md")
    detail: str = Field(description="For people: what is wrong and what to do")


class ProblemError(Exception):
    """An answer other than success; `more` are further members, such as the numbers behind a refusal."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.headers, self.more = status, code, detail, headers, more

    def response(self) -> Response:
        """The answer to the client."""
        document = {
            "type": f"urn:gpuhub:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            **self.more,
        }
        return Response(json.dumps(document, default=_plain), self.status, dict(self.headers or {}), MEDIA_TYPE)


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    raise TypeError(f"{type(value).__name__} in a problem document")


def unavailable() -> ProblemError:
    """The database is away; the client should come back."""
    return ProblemError(
        503,
        "unavailable",
        "The database is not available; nothing was changed that was not answered. Try again.",
        headers={"Retry-After": str(RETRY_AFTER)},
    )


_CODES = {404: "not_found", 413: "too_large", 415: "unsupported_media_type"}


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""

    @app.exception_handler(ProblemError)
    async def problem(_: Request, error: ProblemError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:
            headers = {"Allow": ", ".join(_methods(app, request.url.path))}
            return ProblemError(405, "method_not_allowed", "This path has other methods.", headers=headers).response()
        if error.status_code == 400:
            # FastAPI's word for a body that is no text; for one that is no JSON it says 422.
            return ProblemError(422, "invalid", "The body cannot be read.", errors=[]).response()
        code = _CODES.get(error.status_code, "failed")
        return ProblemError(error.status_code, code, str(error.detail), headers=error.headers).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        # Without the input: it may hold a secret that was put into the wrong field.
        faults = [
            {"field": ".".join(str(part) for part in fault["loc"]), "message": fault["msg"]} for fault in error.errors()
        ]
        detail = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults[:5])
        return ProblemError(422, "invalid", detail, errors=faults).response()

    @app.exception_handler(UnavailableError)
    async def away(_: Request, __: UnavailableError) -> Response:
        return unavailable().response()

    @app.exception_handler(SchemaError)
    async def schema(_: Request, error: SchemaError) -> Response:
        _log.error("%s", error)
        return ProblemError(503, "schema", str(error), headers={"Retry-After": "60"}).response()


def _methods(app: FastAPI, path: str) -> list[str]:
    """The methods that a path has; the route that Starlette has found knows its own only."""
    found: set[str] = set()
    for template, operations in app.openapi()["paths"].items():
        pattern = re.sub(r"\{\w+\}", "[^/]+", template).replace("/api/v1", "(/api/v1)?", 1)
        if re.fullmatch(pattern, path):
            found |= {method.upper() for method in operations}
    return sorted(found)


_TITLES = {
    400: "The request is malformed",
    401: "No valid token or login",
    403: "The token or login does not allow it",
    404: "There is no such thing",
    409: "The request is as described here and cannot be done as things are; `code` says why",
    422: "The request is not as described here; `errors` has every fault",
    503: "The database is not available",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for the errors that an operation can answer with."""
    schema = {"$ref": "#/components/schemas/Problem"}
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        found[status] = {"description": _TITLES[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        if status == 503:
            found[status]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}}
    return found
