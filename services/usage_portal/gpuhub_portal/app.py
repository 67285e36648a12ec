"""The application: routes at `/` and at `/api/v1`, errors, metrics, OpenAPI."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from . import __version__, enforcement, hub_login, problems, reservations
from .database import UnavailableError
from .metrics import RequestMiddleware
from .portal import Portal
from .ready import ReadyLimits
from .routes import enforcement as enforcement_routes
from .routes import health, policy, sessions, tokens, usage, users
from .routes import reservations as reservation_routes
from .settings import Settings

_log = logging.getLogger(__name__)
# Seconds between two looks for reservations and extensions that are over. They stop counting by themselves.
_TIDY_EVERY = 30

# The five operations that existing installations and external portals have, at the paths that those have.
_DOCUMENTED = (users.documented_paths, sessions.documented_paths)
_OWN = (
    users.router,
    sessions.router,
    reservation_routes.router,
    enforcement_routes.router,
    policy.router,
    policy.audit_router,
    usage.router,
    tokens.router,
)


def create_app(settings: Settings) -> FastAPI:
    """Return the application. It starts without a database too, answers 503 then, and recovers by itself."""
    portal = Portal(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        janitor = asyncio.create_task(_tidy(portal))
        yield
        janitor.cancel()
        with suppress(asyncio.CancelledError):
            await janitor
        await portal.close()

    app = FastAPI(
        title="gpuhub usage portal",
        version=__version__,
        description="Limits, reservations, sessions, usage and cost. Errors are application/problem+json.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        generate_unique_id_function=_operation_id,
    )
    app.state.portal = portal
    problems.install(app)
    app.include_router(health.router)
    for router in _DOCUMENTED:
        app.include_router(router)
    for router in _OWN:
        app.include_router(router, include_in_schema=False)
    api = APIRouter(prefix="/api/v1")
    for router in (*_DOCUMENTED, *_OWN, hub_login.router):
        api.include_router(router)
    app.include_router(api)
    app.add_middleware(ReadyLimits, portal=portal)
    app.add_middleware(RequestMiddleware, metrics=portal.metrics)
    _make_openapi_exact(app)
    return app


def _operation_id(route: APIRoute) -> str:
    return f"{route.name}_v1" if route.path_format.startswith("/api/v1/") else route.name


def _make_openapi_exact(app: FastAPI) -> None:
    """Describe errors as the problem documents that they are, and not as FastAPI's own."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = original()
            schemas = document["components"]["schemas"]
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
            schemas["Problem"] = problems.ProblemDocument.model_json_schema()
            for path in document["paths"].values():
                for operation in path.values():
                    invalid = operation["responses"].get("422")
                    if invalid and "application/json" in invalid.get("content", {}):
                        operation["responses"]["422"] = problems.documented(422)[422]
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


async def _tidy(portal: Portal) -> None:
    while True:
        await asyncio.sleep(_TIDY_EVERY)
        try:
            async with portal.database.begin() as connection:
                await reservations.tidy(connection)
                await enforcement.tidy(connection)
        except UnavailableError:
            continue
        except Exception:
            _log.exception("what became of reservations and extensions could not be noted")
