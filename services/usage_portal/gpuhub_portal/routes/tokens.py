"""Tokens, for administrators; and who asks, for everybody."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
from fastapi import APIRouter, Body, Response

from .. import schemas, tokens
from ..auth import Caller
from ..portal import Here
from ..problems import ProblemError, documented
from ..scopes import Scope

router = APIRouter(tags=["tokens"])


@router.get("/me", response_model=schemas.Me, responses=documented(401, 503))
async def me(caller: Caller) -> Any:
    """Who asks."""
    return {
        "name": caller.name,
        "username": caller.username,
        "admin": caller.has(Scope.ADMIN),
        "scopes": sorted(caller.scopes),
    }


@router.get("/tokens", response_model=schemas.Page[schemas.Token], responses=documented(401, 403, 404, 422, 503))
async def list_tokens(caller: Caller, portal: Here, cursor: schemas.Cursor = None, limit: schemas.Limit = 100) -> Any:
    """Tokens, oldest first, also those that are over; their texts are nowhere."""
    caller.require(Scope.ADMIN)
    after = schemas.read_cursor(cursor, schemas.instant, UUID)
    async with portal.database.connect() as connection:
        rows = await tokens.listed(connection, after, limit + 1)
    return schemas.page(rows, limit, lambda row: (row["created_at"], row["id"]))


@router.post("/tokens", status_code=201, response_model=schemas.NewToken, responses=documented(401, 403, 409, 422, 503))
async def create_token(wanted: schemas.TokenRequest, caller: Caller, portal: Here) -> Any:
    """Make a token. Its text is in this answer and never again."""
    caller.require(Scope.ADMIN)
    async with portal.database.begin() as connection:
        now = (await connection.execute(sa.select(sa.func.now()))).scalar_one()
        if wanted.expires_at is not None and wanted.expires_at <= now:
            raise ProblemError(409, "in_the_past", "A token expires in the future, or never.")
        text, row = await tokens.create(connection, caller.name, wanted.name, wanted.scopes, wanted.expires_at)
    return {"token": text, **row}


@router.post(
    "/tokens/{token_id}/rotate",
    status_code=201,
    response_model=schemas.NewToken,
    responses=documented(401, 403, 404, 409, 422, 503),
)
async def rotate_token(
    token_id: UUID, caller: Caller, portal: Here, rotation: Annotated[schemas.TokenRotation | None, Body()] = None
) -> Any:
    """Make a successor with the same name and scopes; the old token works for a while beside it."""
    caller.require(Scope.ADMIN)
    overlap = timedelta(seconds=(rotation or schemas.TokenRotation()).overlap_seconds)
    async with portal.database.begin() as connection:
        try:
            text, row = await tokens.rotate(connection, caller.name, token_id, overlap)
        except tokens.NoTokenError as error:
            raise ProblemError(404, "not_found", str(error)) from None
        except tokens.TokenError as error:
            raise ProblemError(409, "token_over", str(error)) from None
    portal.tokens.forget()
    return {"token": text, **row}


@router.delete("/tokens/{token_id}", status_code=204, responses=documented(401, 403, 404, 422, 503))
async def revoke_token(token_id: UUID, caller: Caller, portal: Here) -> Response:
    """End a token now."""
    caller.require(Scope.ADMIN)
    async with portal.database.begin() as connection:
        try:
            await tokens.revoke(connection, caller.name, token_id)
        except tokens.NoTokenError as error:
            raise ProblemError(404, "not_found", str(error)) from None
    portal.tokens.forget()
    return Response(status_code=204)
