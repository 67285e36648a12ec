"""Sessions: those of pods to be read, those of other producers also to be written; and the outbox of spawners."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Body, Path, Query

from .. import audit, queries, schemas
from ..auth import Caller, Principal
from ..portal import Here
from ..problems import ProblemError, documented
from ..scopes import Scope

documented_paths = APIRouter(tags=["sessions"])
router = APIRouter(tags=["sessions"])
_SessionId = Annotated[schemas.Name, Path()]
# Clocks of producers differ a little from the database's.
_TOLERANCE = timedelta(minutes=5)


@documented_paths.get(
    "/sessions", response_model=schemas.Page[schemas.Session], responses=documented(401, 403, 404, 422, 503)
)
async def list_sessions(
    caller: Caller,
    portal: Here,
    username: schemas.UsernameFilter = None,
    kind: Annotated[schemas.Kind | None, Query()] = None,
    state: Annotated[Literal["running", "ended"] | None, Query()] = None,
    begin: Annotated[schemas.Time | None, Query(alias="from", description="Sessions that were running after")] = None,
    end: Annotated[schemas.Time | None, Query(alias="to", description="Sessions that began before")] = None,
    cursor: schemas.Cursor = None,
    limit: schemas.Limit = 100,
) -> Any:
    """Sessions, latest first. A person sees their own."""
    username = visible(caller, username)
    after = schemas.read_cursor(cursor, schemas.instant, str)
    chosen = queries.SessionFilter(username, kind, None if state is None else state == "running", begin, end)
    async with portal.database.connect() as connection:
        rows = await queries.sessions(connection, chosen, after, limit + 1)
    return schemas.page(rows, limit, lambda row: (row["started_at"], row["id"]), _shown)


def visible(caller: Principal, username: str | None) -> str | None:
    """The user whose data are listed: without the right to see all, the caller. Raises ProblemError 403."""
    if username is None and caller.username is not None and not caller.has(Scope.SESSIONS_READ):
        username = caller.username
    caller.require(Scope.SESSIONS_READ, owner=username)
    return username


@documented_paths.get(
    "/sessions/{session_id}", response_model=schemas.Session, responses=documented(401, 403, 404, 422, 503)
)
async def get_session(session_id: _SessionId, caller: Caller, portal: Here) -> Any:
    """One session."""
    if caller.username is None:
        caller.require(Scope.SESSIONS_READ)
    async with portal.database.connect() as connection:
        row = await queries.session(connection, session_id)
    # To people who may not see it there is none, so that nobody can search for names.
    if row is None or not (caller.has(Scope.SESSIONS_READ) or row["username"] == caller.username):
        raise ProblemError(404, "not_found", "There is no such session.")
    return _shown(row)


@documented_paths.post(
    "/sessions", status_code=201, response_model=schemas.Session, responses=documented(401, 403, 409, 422, 503)
)
async def start_session(
    wanted: schemas.SessionStart, caller: Caller, portal: Here, idempotency_key: schemas.OptionalIdempotencyKey = None
) -> Any:
    """Record a session outside the cluster. Sent again with the same key it is the same session."""
    caller.require(Scope.SESSIONS_WRITE)
    async with portal.database.begin() as connection:
        now = (await connection.execute(sa.select(sa.func.now()))).scalar_one()
        if wanted.started_at is not None and wanted.started_at > now + _TOLERANCE:
            raise ProblemError(409, "in_the_future", "A session begins now or has begun before.")
        row = {
            "id": str(uuid.uuid4()),
            "username": wanted.username,
            "kind": wanted.kind,
            "name": wanted.name,
            "started_at": wanted.started_at or now,
            "source": "external",
            # Keys of different producers do not meet.
            "idempotency_key": f"{caller.name}/{idempotency_key}" if idempotency_key else None,
            "requests": wanted.requests.model_dump(),
        }
        session_id, new = await queries.add_session(connection, row)
        made = await queries.session(connection, session_id)
        assert made is not None
        if new:
            await audit.record(
                connection, caller.name, "session.start", session_id, after={"username": row["username"]}
            )
        elif any(made[name] != row[name] for name in ("username", "kind", "name", "requests")):
            raise ProblemError(
                409, "idempotency_key_reused", "This Idempotency-Key was sent before with another session."
            )
    return _shown(made)


@documented_paths.put(
    "/sessions/{session_id}/end",
    response_model=schemas.Session,
    responses=documented(401, 403, 404, 409, 422, 503),
)
async def end_session(
    session_id: _SessionId, caller: Caller, portal: Here, ending: Annotated[schemas.SessionEnd | None, Body()] = None
) -> Any:
    """Record the end of a session outside the cluster; once it has ended it stays so."""
    caller.require(Scope.SESSIONS_WRITE)
    async with portal.database.begin() as connection:
        row = await queries.lock_session(connection, session_id)
        if row is None:
            raise ProblemError(404, "not_found", "There is no such session.")
        if row.source != "external":
            raise ProblemError(409, "session_of_pods", "This session ends with its pods.")
        if row.ended_at is None:
            now = (await connection.execute(sa.select(sa.func.now()))).scalar_one()
            at = ending.ended_at if ending is not None and ending.ended_at is not None else max(now, row.started_at)
            if at < row.started_at:
                raise ProblemError(
                    409, "ends_before_start", "A session does not end before it starts.", start=row.started_at
                )
            if at > now + _TOLERANCE:
                raise ProblemError(409, "in_the_future", "A session ends now or has ended before.")
            await queries.end_session(connection, session_id, at)
            await audit.record(connection, caller.name, "session.end", session_id, after={"ended_at": at.isoformat()})
        ended = await queries.session(connection, session_id)
        assert ended is not None
    return _shown(ended)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("id", "username", "kind", "name", "source", "started_at", "ended_at")},
        "state": "running" if row["ended_at"] is None else "ended",
        "requests": row["requests"],
        "nodes": row["nodes"] or [],
        "gpu_types": row["gpu_types"] or [],
        "gpu_hours": schemas.hours(row["gpu_seconds"]),
        "cpu_hours": schemas.hours(row["cpu_milli_seconds"], 1000),
        "memory_gib_hours": schemas.hours(row["memory_mib_seconds"], 1024),
        "cost": schemas.money(row["cost"]),
        "inferred": row["inferred"],
    }


@router.post("/witness", response_model=schemas.WitnessKept, responses=documented(401, 403, 422, 503))
async def witness(outbox: schemas.Witness, caller: Caller, portal: Here) -> Any:
    """Keep what a spawner saw; what was sent before counts once."""
    caller.require(Scope.WITNESS_WRITE)
    events = {}
    for event in outbox.events:
        # What is not known of a pod must not look like something that is.
        events[event.event_id] = event.model_dump() | {"pod": event.pod.model_dump(exclude_unset=True)}
    async with portal.database.begin() as connection:
        new = await queries.add_witness(connection, caller.name, events.values())
    return {"new": new, "known": len(outbox.events) - new}
