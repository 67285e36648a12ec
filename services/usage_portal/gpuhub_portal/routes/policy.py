"""Limits, groups, budgets and rates; and who changed what."""

from __future__ import annotations

from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Path, Query, Response

from .. import policy, schemas, tables
from ..auth import Caller
from ..portal import Here, Portal
from ..problems import ProblemError, documented
from ..scopes import Scope

router = APIRouter(prefix="/policy", tags=["policy"])
audit_router = APIRouter(tags=["policy"])
_READ = documented(401, 403, 404, 422, 503)
_DELETE = documented(401, 403, 404, 409, 422, 503)
_WRITE = documented(401, 403, 409, 422, 503)
_LIST = documented(401, 403, 404, 422, 503)
_GroupName = Annotated[schemas.Name, Path()]


async def _section(portal: Portal, section: str) -> Any:
    async with portal.database.connect() as connection:
        return (await portal.policies.tree(connection))[section]


async def _get(portal: Portal, section: str, name: str) -> Any:
    entries = await _section(portal, section)
    if name not in entries:
        raise ProblemError(404, "not_found", "The policy says nothing about this name.")
    return entries[name]


async def _list(portal: Portal, section: str, cursor: str | None, limit: int) -> Any:
    after = schemas.read_cursor(cursor, str)
    entries = sorted((await _section(portal, section)).items())
    rows = [entry for entry in entries if after is None or entry[0] > after[0]]
    return schemas.page(rows[: limit + 1], limit, lambda row: (row[0],), lambda row: {"name": row[0], "entry": row[1]})


async def _put(portal: Portal, caller: Caller, kind: str, name: str, document: schemas.LimitsDocument) -> Any:
    entry = schemas.without_defaults(document)
    if isinstance(document, schemas.GroupDocument):
        entry["members"] = sorted(set(document.members))
    async with portal.database.begin() as connection:
        await portal.policies.put(connection, caller.name, kind, name, entry)
    portal.limits.invalidate()
    return entry


async def _delete(portal: Portal, caller: Caller, kind: str, name: str) -> Response:
    async with portal.database.begin() as connection:
        await portal.policies.delete(connection, caller.name, kind, name)
    portal.limits.invalidate()
    return Response(status_code=204)


@router.get("", response_model=schemas.PolicyFrame, responses=documented(401, 403, 503))
async def get_frame(caller: Caller, portal: Here) -> Any:
    """What all of the policy stands on."""
    caller.require(Scope.POLICY_WRITE)
    return {"time_zone": portal.settings.time_zone}


@router.get(
    "/default",
    response_model=schemas.DefaultDocument,
    response_model_exclude_unset=True,
    responses=documented(401, 403, 503),
)
async def get_default(caller: Caller, portal: Here) -> Any:
    """Limits and budgets of everybody of whom nothing else is said."""
    caller.require(Scope.POLICY_WRITE)
    return await _section(portal, "default")


@router.put("/default", response_model=schemas.DefaultDocument, response_model_exclude_unset=True, responses=_WRITE)
async def put_default(document: schemas.DefaultDocument, caller: Caller, portal: Here) -> Any:
    """Replace them."""
    caller.require(Scope.POLICY_WRITE)
    return await _put(portal, caller, policy.DEFAULT, "", document)


@router.get("/users", response_model=schemas.Page[schemas.NamedEntry], responses=_LIST)
async def list_users(caller: Caller, portal: Here, cursor: schemas.Cursor = None, limit: schemas.Limit = 100) -> Any:
    """Users of whom the policy says something, by name."""
    caller.require(Scope.POLICY_WRITE)
    return await _list(portal, "users", cursor, limit)


@router.get(
    "/users/{username}", response_model=schemas.LimitsDocument, response_model_exclude_unset=True, responses=_READ
)
async def get_user(username: schemas.Username, caller: Caller, portal: Here) -> Any:
    """What the policy says about a user."""
    caller.require(Scope.POLICY_WRITE)
    return await _get(portal, "users", username)


@router.put(
    "/users/{username}", response_model=schemas.LimitsDocument, response_model_exclude_unset=True, responses=_WRITE
)
async def put_user(username: schemas.Username, document: schemas.LimitsDocument, caller: Caller, portal: Here) -> Any:
    """Replace what the policy says about a user."""
    caller.require(Scope.POLICY_WRITE)
    return await _put(portal, caller, policy.USER, username, document)


@router.delete("/users/{username}", status_code=204, responses=_DELETE)
async def delete_user(username: schemas.Username, caller: Caller, portal: Here) -> Response:
    """Say nothing about a user any more."""
    caller.require(Scope.POLICY_WRITE)
    return await _delete(portal, caller, policy.USER, username)


@router.get("/groups", response_model=schemas.Page[schemas.NamedEntry], responses=_LIST)
async def list_groups(caller: Caller, portal: Here, cursor: schemas.Cursor = None, limit: schemas.Limit = 100) -> Any:
    """Groups, by name."""
    caller.require(Scope.POLICY_WRITE)
    return await _list(portal, "groups", cursor, limit)


@router.get("/groups/{name}", response_model=schemas.GroupDocument, response_model_exclude_unset=True, responses=_READ)
async def get_group(name: _GroupName, caller: Caller, portal: Here) -> Any:
    """A group: its members, and the limits and budgets of each."""
    caller.require(Scope.POLICY_WRITE)
    return await _get(portal, "groups", name)


@router.put("/groups/{name}", response_model=schemas.GroupDocument, response_model_exclude_unset=True, responses=_WRITE)
async def put_group(name: _GroupName, document: schemas.GroupDocument, caller: Caller, portal: Here) -> Any:
    """Replace a group with its members."""
    caller.require(Scope.POLICY_WRITE)
    return await _put(portal, caller, policy.GROUP, name, document)


@router.delete("/groups/{name}", status_code=204, responses=_DELETE)
async def delete_group(name: _GroupName, caller: Caller, portal: Here) -> Response:
    """Remove a group."""
    caller.require(Scope.POLICY_WRITE)
    return await _delete(portal, caller, policy.GROUP, name)


@router.get("/rates", response_model=schemas.Rates, responses=documented(401, 403, 503))
async def get_rates(caller: Caller, portal: Here) -> Any:
    """What an hour costs, and cost and will cost."""
    caller.require(Scope.POLICY_WRITE, Scope.SESSIONS_READ)
    return {"rates": await _section(portal, "rates")}


_WITHDRAW = {
    "operationId": "delete_rate_v1",
    "parameters": {"valid_from": "$request.body#/rates/0/from"},
    "description": "A rate that was added can be withdrawn until it holds.",
}


@router.put(
    "/rates",
    response_model=schemas.Rates,
    responses={**documented(401, 403, 409, 422, 503), 200: {"links": {"withdraw": _WITHDRAW}}},
)
async def put_rates(document: schemas.Rates, caller: Caller, portal: Here) -> Any:
    """Add rates, or change those that are still to come. Rates that are not sent stay; the past keeps its price."""
    caller.require(Scope.POLICY_WRITE)
    wanted = [
        policy.rate_document(rate.valid_from, rate.currency, rate.gpu, rate.cpu_hour, rate.memory_gib_hour)
        for rate in document.rates
    ]
    async with portal.database.begin() as connection:
        await portal.policies.put_rates(connection, caller.name, wanted)
    portal.limits.invalidate()
    return {"rates": await _section(portal, "rates")}


@router.delete("/rates/{valid_from}", status_code=204, responses=documented(401, 403, 404, 409, 422, 503))
async def delete_rate(valid_from: schemas.Hour, caller: Caller, portal: Here) -> Response:
    """Withdraw a rate that is still to come."""
    caller.require(Scope.POLICY_WRITE)
    async with portal.database.begin() as connection:
        await portal.policies.delete_rate(connection, caller.name, valid_from)
    return Response(status_code=204)


@audit_router.get("/audit", response_model=schemas.Page[schemas.AuditEntry], responses=_LIST)
async def list_audit(
    caller: Caller,
    portal: Here,
    subject: Annotated[str | None, Query(max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$")] = None,
    cursor: schemas.Cursor = None,
    limit: schemas.Limit = 100,
) -> Any:
    """Who changed what, latest first."""
    caller.require(Scope.ADMIN)
    after = schemas.read_cursor(cursor, _row_id)
    query = sa.select(tables.audit).order_by(tables.audit.c.id.desc()).limit(limit + 1)
    if subject is not None:
        query = query.where(tables.audit.c.subject == subject)
    if after is not None:
        query = query.where(tables.audit.c.id < after[0])
    async with portal.database.connect() as connection:
        rows = (await connection.execute(query)).all()
    return schemas.page(rows, limit, lambda row: (row.id,), lambda row: row._mapping)


def _row_id(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise ValueError
    return number
