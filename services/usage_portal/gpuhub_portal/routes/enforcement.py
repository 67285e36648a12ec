"""Notebooks that end with their user's budget, and who is given more time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Response

from .. import enforcement, schemas
from ..auth import Caller
from ..portal import Here
from ..problems import documented
from ..scopes import Scope

router = APIRouter(tags=["enforcement"])


@router.get("/enforcement", response_model=schemas.Enforcement, responses=documented(401, 403, 503))
async def ends(caller: Caller, portal: Here) -> Any:
    """Notebooks that have to end because a budget is used up, soonest first, from some time before (the notice) on."""
    caller.require(Scope.ENFORCEMENT)
    settings = portal.settings
    notice, least = timedelta(seconds=settings.notice_seconds), timedelta(seconds=settings.least_notice_seconds)
    async with portal.database.begin() as connection:
        return {"items": await enforcement.ends(connection, portal.policies, notice, least)}


@router.get(
    "/extensions", response_model=schemas.Page[schemas.Extension], responses=documented(401, 403, 404, 422, 503)
)
async def list_extensions(
    caller: Caller, portal: Here, cursor: schemas.Cursor = None, limit: schemas.Limit = 100
) -> Any:
    """Users whose running notebooks do not end with their budgets for now, by name."""
    caller.require(Scope.POLICY_WRITE)
    after = schemas.read_cursor(cursor, str)
    async with portal.database.connect() as connection:
        rows = await enforcement.extensions(connection, after and after[0], limit + 1)
    return schemas.page(rows, limit, lambda row: (row.username,), lambda row: row._mapping)


@router.put("/extensions/{username}", response_model=schemas.Extension, responses=documented(401, 403, 409, 422, 503))
async def extend(username: schemas.Username, wanted: schemas.ExtensionRequest, caller: Caller, portal: Here) -> Any:
    """Let a user's running notebooks go on until then. New ones are refused while a budget is used up."""
    caller.require(Scope.POLICY_WRITE)
    async with portal.database.begin() as connection:
        row = await enforcement.extend(connection, caller.name, username, wanted.until, wanted.reason)
    return row._mapping


@router.delete("/extensions/{username}", status_code=204, responses=documented(401, 403, 404, 422, 503))
async def end_extension(username: schemas.Username, caller: Caller, portal: Here) -> Response:
    """Let a user's budgets hold again."""
    caller.require(Scope.POLICY_WRITE)
    async with portal.database.begin() as connection:
        await enforcement.end_extension(connection, caller.name, username)
    return Response(status_code=204)
