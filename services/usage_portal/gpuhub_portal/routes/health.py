"""Open to everybody: is it alive, is it ready, what does Prometheus scrape."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from .. import queries
from ..database import UnavailableError
from ..metrics import CONTENT_TYPE
from ..portal import Here
from ..problems import documented

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """All is well."""

    status: Literal["ok"] = "ok"


class Knowledge(Health):
    """The collector follows the cluster; what happened before `known_at` is recorded."""

    known_at: datetime


@router.get("/healthz")
async def healthz() -> Health:
    """Whether the process answers."""
    return Health()


@router.get("/readyz", responses=documented(503))
async def readyz(portal: Here) -> Health:
    """Whether the database answers and has the schema of this version."""
    await portal.database.check()
    return Health()


@router.get("/readyz/collector", responses=documented(503))
async def collector_readyz(portal: Here) -> Knowledge:
    """Whether what pods hold is recorded now; where it is not, nothing is granted."""
    async with portal.database.begin() as connection:
        return Knowledge(known_at=await portal.rules.check_knowledge(connection))


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(portal: Here) -> Response:
    """Metrics in Prometheus' text format."""
    try:
        async with portal.database.connect() as connection:
            known_at = (await queries.followed(connection))[0]
        portal.metrics.known_at.set(known_at.timestamp() if known_at else 0)
    except UnavailableError:
        # All else is worth knowing then more than ever.
        portal.metrics.known_at.set(math.nan)
    return Response(portal.metrics.text(), headers={"Content-Type": CONTENT_TYPE})
