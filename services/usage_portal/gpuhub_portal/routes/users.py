"""Limits, budgets and profiles of a user, and what there is in the cluster."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from gpuhub_core.pod_requests import NodeAccount

from .. import queries, schemas
from ..auth import Caller
from ..cache import document
from ..portal import Here
from ..problems import documented
from ..scopes import Scope

# The one path that old clients and external portals share with us.
documented_paths = APIRouter(tags=["limits"])
router = APIRouter(tags=["limits"])
_ERRORS = documented(401, 403, 422, 503)
_HomeNode = Annotated[schemas.Name | None, Query(description="The node that the user's home is bound to")]


@documented_paths.get("/users/{username}/limits", response_model=schemas.UserLimits, responses=_ERRORS)
async def limits(username: schemas.Username, caller: Caller, portal: Here) -> Response:
    """A user's limits and what is in use now; at most one second old."""
    caller.require(Scope.LIMITS_READ, owner=username)
    return Response(await portal.limits.answer(username), media_type="application/json")


@router.get("/users/{username}/profiles", response_model=schemas.Profiles, responses=_ERRORS)
async def profiles(username: schemas.Username, caller: Caller, portal: Here, home_node: _HomeNode = None) -> Any:
    """The sizes of notebooks that a user may start now, and why not the others; with limits and capacity as of now."""
    caller.require(Scope.LIMITS_READ, owner=username)
    async with portal.database.connect() as connection:
        found = await portal.rules.overview(connection, username, home_node)
    return {
        "items": [profile.as_dict() for profile in found.profiles],
        "limits": document(found.limits, found.use),
        "capacity": _capacity(found.cluster),
    }


@router.get("/users/{username}/budgets", response_model=schemas.Budgets, responses=_ERRORS)
async def budgets(username: schemas.Username, caller: Caller, portal: Here) -> Any:
    """A user's budgets and what is used of them."""
    caller.require(Scope.LIMITS_READ, owner=username)
    async with portal.database.connect() as connection:
        found = await portal.rules.budgets(connection, username)
    return {
        "items": [
            {
                "resource": state.budget.resource,
                "window": f"{state.budget.days}d" if state.budget.days else state.budget.period,
                "amount": state.budget.amount,
                "used": state.used,
                "again": state.again,
            }
            for state in found
        ]
    }


@router.get("/capacity", response_model=schemas.Capacity, responses=documented(401, 403, 503))
async def capacity(caller: Caller, portal: Here) -> Any:
    """GPUs by type, and each node: what there is, what is held, and what is free now."""
    if caller.username is None:
        caller.require(Scope.LIMITS_READ)
    async with portal.database.connect() as connection:
        return _capacity(await queries.cluster(connection))


def _capacity(cluster: queries.Cluster) -> dict[str, Any]:
    nodes, pending = cluster
    with_gpus = [node for node in nodes if node.capacity.gpu]
    kinds = sorted({node.gpu_type for node in with_gpus})
    types = [_count(kind, [node for node in with_gpus if node.gpu_type == kind], pending) for kind in kinds]
    return {
        "gpu_types": [*types, _count("any", with_gpus, pending)],
        "nodes": [
            {
                "node": node.name,
                "gpu_type": node.gpu_type,
                "product": node.product,
                "state": node.repels or "ready",
                "total": node.capacity.gpu,
                "unhealthy": node.unhealthy_gpu,
                "held": node.used.gpu,
                "free": node.free.gpu,
                "cpu_milli": node.allocatable.cpu_milli,
                "free_cpu_milli": node.free.cpu_milli,
                "memory_bytes": node.allocatable.memory_bytes,
                "free_memory_bytes": node.free.memory_bytes,
            }
            for node in nodes
        ],
    }


def _count(kind: str, nodes: list[NodeAccount], pending: list[queries.Pending]) -> dict[str, Any]:
    reserved = sum(grant.resources.gpu for grant in pending if kind == "any" or grant.gpu_type.lower() == kind.lower())
    total, held = sum(node.capacity.gpu for node in nodes), sum(node.used.gpu for node in nodes)
    free = sum(node.free.gpu for node in nodes)
    return {"gpu_type": kind, "total": total, "held": held, "reserved": reserved, "free": max(free - reserved, 0)}
