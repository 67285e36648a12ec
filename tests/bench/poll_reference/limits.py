"""uvicorn poll_reference.limits:app: limits and use of a user, by a synchronous function for each request.

Environment: POLL_DATABASE_URL, POLL_TOKEN.
"""

from __future__ import annotations

import os
import secrets
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session, sessionmaker

from poll_reference.models import PodSession, UserLimit

app = FastAPI()
_sessions = sessionmaker(create_engine(os.environ["POLL_DATABASE_URL"], pool_size=10))
_bearer = HTTPBearer()


class Usage(BaseModel):
    """What a user has now."""

    cpu_cores: float
    memory_gib: float
    gpu: int


class UserLimits(BaseModel):
    """What a user may have, and has."""

    cpu_limit_cores: float | None
    memory_limit_gib: float | None
    gpu_limit: int | None
    usage: Usage


def _database():
    with _sessions() as session:
        yield session


def _known(credentials: Annotated[HTTPAuthorizationCredentials, Depends(_bearer)]) -> None:
    if not secrets.compare_digest(credentials.credentials, os.environ["POLL_TOKEN"]):
        raise HTTPException(401)


@app.get("/users/{username}/limits", dependencies=[Depends(_known)])
def limits(username: str, database: Annotated[Session, Depends(_database)]) -> UserLimits:
    """Read the user's limits and each of their sessions that runs."""
    limit = database.get(UserLimit, username) or UserLimit(username=username)
    running = select(PodSession).where(PodSession.username == username, PodSession.ended_at.is_(None))
    cores, memory, gpu = 0.0, 0, 0
    for session in database.scalars(running):
        cores += session.cpu_cores
        memory += session.memory_bytes
        gpu += session.gpu
    return UserLimits(
        cpu_limit_cores=limit.cpu_cores,
        memory_limit_gib=limit.memory_gib,
        gpu_limit=limit.gpu,
        usage=Usage(cpu_cores=round(cores, 3), memory_gib=round(memory / 2**30, 3), gpu=gpu),
    )
