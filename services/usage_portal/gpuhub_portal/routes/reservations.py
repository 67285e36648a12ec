"""Reservations: asked for, renewed, given back."""

from __future__ import annotations

import logging
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from .. import reservations, schemas
from ..auth import Caller, Principal
from ..portal import Here, Portal
from ..problems import ProblemError, documented
from ..scopes import Scope

_log = logging.getLogger(__name__)
router = APIRouter(prefix="/reservations", tags=["reservations"])


def _owner(caller: Principal) -> str | None:
    """Whose reservations the caller handles; an administrator everybody's."""
    return None if caller.has(Scope.ADMIN) else caller.name


@router.post("", status_code=201, response_model=schemas.Reservation, responses=documented(401, 403, 409, 422, 503))
async def reserve(
    wanted: schemas.ReservationRequest, caller: Caller, portal: Here, idempotency_key: schemas.IdempotencyKey
) -> Any:
    """Grant resources to what is about to start, or refuse with `code`, `numbers` and `until`.

    Codes of a refusal: `over_limit`, `budget_used`, `too_large`, `none_free`. An Idempotency-Key that is a UUID becomes
    the reservation's id.
    """
    caller.require(Scope.RESERVE)
    wish = reservations.Wish(**wanted.model_dump(exclude={"granted"}))
    decide = _record if wanted.granted else _grant
    try:
        async with portal.deciding, portal.database.begin() as connection:
            granted, outcome = await decide(portal, connection, caller.name, idempotency_key, wish)
    except IntegrityError:
        # The same key at the same time for another user, whose lock is another one.
        portal.metrics.reservations.labels("idempotency_key_reused").inc()
        raise ProblemError(
            409, "idempotency_key_reused", "This Idempotency-Key was sent with another request."
        ) from None
    except ProblemError as refusal:
        portal.metrics.reservations.labels(refusal.code).inc()
        raise
    portal.metrics.reservations.labels(outcome).inc()
    portal.limits.invalidate()
    return granted._mapping


async def _grant(
    portal: Portal, connection: AsyncConnection, owner: str, key: str, wish: reservations.Wish
) -> tuple[Any, str]:
    seconds = portal.settings.reservation_seconds
    return await reservations.grant(connection, portal.rules, owner, key, wish, seconds), "granted"


async def _record(
    portal: Portal, connection: AsyncConnection, owner: str, key: str, wish: reservations.Wish
) -> tuple[Any, str]:
    seconds = portal.settings.reservation_seconds
    recorded, reason = await reservations.record(connection, portal.rules, owner, key, wish, seconds)
    if reason is not None:
        _log.warning("reservation %s is recorded beyond what could be granted: %s", recorded.id, reason.code)
    return recorded, "recorded_beyond" if reason else "recorded"


@router.get("", response_model=schemas.Page[schemas.Reservation], responses=documented(401, 403, 404, 422, 503))
async def list_reservations(
    caller: Caller,
    portal: Here,
    username: schemas.UsernameFilter = None,
    state: Annotated[schemas.ReservationState | None, Query()] = None,
    cursor: schemas.Cursor = None,
    limit: schemas.Limit = 100,
) -> Any:
    """Reservations, latest first. A person sees their own."""
    if username is None and caller.username is not None and not caller.has(Scope.ADMIN):
        username = caller.username
    caller.require(Scope.RESERVE, owner=username)
    after = schemas.read_cursor(cursor, schemas.instant, UUID)
    async with portal.database.connect() as connection:
        rows = await reservations.listed(
            connection, username=username, state=state.value if state else None, after=after, limit=limit + 1
        )
    return schemas.page(rows, limit, lambda row: (row.created_at, row.id), lambda row: row._mapping)


@router.put(
    "/{reservation_id}/renew",
    response_model=schemas.Reservation,
    responses=documented(401, 403, 404, 409, 422, 503),
)
async def renew(reservation_id: UUID, caller: Caller, portal: Here) -> Any:
    """Let a reservation last from now on as long as a new one."""
    caller.require(Scope.RESERVE)
    seconds = portal.settings.reservation_seconds
    async with portal.deciding, portal.database.begin() as connection:
        renewed = await reservations.renew(connection, _owner(caller), reservation_id, seconds)
    return renewed._mapping


@router.delete("/{reservation_id}", status_code=204, responses=documented(401, 403, 404, 422, 503))
async def release(reservation_id: UUID, caller: Caller, portal: Here) -> Response:
    """Give a reservation back. One that is settled stays: its pod holds what was granted."""
    caller.require(Scope.RESERVE)
    async with portal.database.begin() as connection:
        await reservations.release(connection, _owner(caller), reservation_id)
    portal.limits.invalidate()
    return Response(status_code=204)
