"""What was used, by user, group, GPU type or kind, over any time; as pages of JSON or as one CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from .. import queries, schemas
from ..auth import Caller, Principal
from ..portal import Here, Portal
from ..problems import documented
from .sessions import visible

router = APIRouter(tags=["usage"])
_By = Annotated[Literal["user", "group", "gpu_type", "kind"], Query(description="Whose or what sums")]
_Begin = Annotated[schemas.Time, Query(alias="from", description="Rounded down to the hour of UTC")]
_End = Annotated[schemas.Time, Query(alias="to", description="Rounded up to the hour of UTC")]
_Step = Annotated[
    Literal["hour", "day", "month"] | None, Query(description="A row for each; without it one for the whole time")
]
_COLUMNS = ("from", "key", "gpu_hours", "cpu_hours", "memory_gib_hours", "sessions", "cost", "currency")
# What spreadsheets take for a formula. User names are chosen by users.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def _chosen(
    portal: Portal, caller: Principal, by: str, begin: datetime, end: datetime, step: str | None, username: str | None
) -> queries.UsageFilter:
    username = visible(caller, username)
    # Hours of UTC: an offset may be no whole hour.
    begin, end = begin.astimezone(UTC), end.astimezone(UTC)
    begin = begin.replace(minute=0, second=0, microsecond=0)
    whole = end.replace(minute=0, second=0, microsecond=0)
    end = whole if whole == end else whole + timedelta(hours=1)
    return queries.UsageFilter(by, begin, end, step, portal.settings.time_zone, username)


def _shown(row: Any) -> dict[str, Any]:
    return {
        "begin": row["bucket"],
        "key": row["key"],
        "gpu_hours": schemas.hours(row["gpu_seconds"]),
        "cpu_hours": schemas.hours(row["cpu_milli_seconds"], 1000),
        "memory_gib_hours": schemas.hours(row["memory_mib_seconds"], 1024),
        "sessions": row["sessions"],
        "cost": schemas.money(row["cost"]),
    }


@router.get("/usage", response_model=schemas.Usage, responses=documented(401, 403, 404, 422, 503))
async def usage(
    caller: Caller,
    portal: Here,
    by: _By,
    begin: _Begin,
    end: _End,
    step: _Step = None,
    username: schemas.UsernameFilter = None,
    cursor: schemas.Cursor = None,
    limit: schemas.Limit = 100,
) -> Any:
    """Hours and cost, oldest period first. A person sees their own. Days and months are those of the portal's zone."""
    chosen = _chosen(portal, caller, by, begin, end, step, username)
    after = schemas.read_cursor(cursor, schemas.instant, str)
    async with portal.database.snapshot() as connection:
        rows = await queries.usage(connection, chosen, after, limit + 1)
        currency = await _currency(portal, connection)
    page = schemas.page(rows, limit, lambda row: (row["bucket"], row["key"]), _shown)
    return {"by": by, "begin": chosen.begin, "end": chosen.end, "step": step, "currency": currency, **page}


async def _currency(portal: Portal, connection: Any) -> str | None:
    return (await portal.policies.current(connection)).policy.currency or None


@router.get(
    "/usage.csv",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {}}, "description": "All rows"}, **documented(401, 403, 422, 503)},
)
async def usage_csv(
    caller: Caller,
    portal: Here,
    by: _By,
    begin: _Begin,
    end: _End,
    step: _Step = None,
    username: schemas.UsernameFilter = None,
) -> StreamingResponse:
    """The same rows, all of them, as CSV (RFC 4180)."""
    chosen = _chosen(portal, caller, by, begin, end, step, username)
    lines = _lines(portal, chosen)
    # The first line is made before the answer begins, so that a database that is away is an error and no empty file.
    first = await lines.__anext__()

    async def body() -> AsyncIterator[str]:
        yield first
        async for line in lines:
            yield line

    name = f"usage-by-{by}-{chosen.begin:%Y%m%d}-{chosen.end:%Y%m%d}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(body(), media_type="text/csv; charset=utf-8", headers=headers)


async def _lines(portal: Portal, chosen: queries.UsageFilter) -> AsyncIterator[str]:
    async with portal.database.snapshot() as connection:
        currency = await _currency(portal, connection) or ""
        rows = queries.stream_usage(connection, chosen)
        text = _line(_COLUMNS)
        async for row in rows:
            shown = _shown(row)
            start = shown["begin"].isoformat().replace("+00:00", "Z")
            cells = (start, *(shown[name] for name in _COLUMNS[1:7]), currency)
            text += _line(["" if cell is None else cell for cell in cells])
            if len(text) > 16_384:
                yield text
                text = ""
        yield text


def _line(cells: Any) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow([f"'{c}" if isinstance(c, str) and c.startswith(_FORMULA) else c for c in cells])
    return buffer.getvalue()
