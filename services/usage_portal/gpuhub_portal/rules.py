"""What `gpuhub_core` decides, applied to what the database knows. The only place that calls its rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from gpuhub_core import quota_profiles
from gpuhub_core.quantities import Limits, Resources
from gpuhub_core.quota_policy import BudgetState
from sqlalchemy.ext.asyncio import AsyncConnection

from . import queries
from .policy import Current, Policies
from .problems import RETRY_AFTER, ProblemError


@dataclass(frozen=True)
class Overview:
    """What a user may start, by what: limits, what they have, and the cluster."""

    profiles: list[quota_profiles.Profile]
    limits: Limits
    use: Resources
    cluster: queries.Cluster


class Rules:
    """Refusals, profiles and budgets by the policy and the settings of this installation."""

    def __init__(self, policies: Policies, profile_settings: Mapping[str, Any], oldest: timedelta) -> None:
        self._policies = policies
        self._settings = quota_profiles.settings(profile_settings)
        self._oldest = oldest

    async def check_knowledge(self, connection: AsyncConnection) -> datetime:
        """Up to when the cluster is known. Raises ProblemError 503 where it may be another one by now."""
        known_at, now = await queries.followed(connection)
        if known_at is None or known_at <= now - self._oldest:
            raise ProblemError(
                503,
                "collector_behind",
                f"What is free has not been known for {self._oldest.seconds} s: the collector is away, or does not"
                " reach the API server. Nothing is granted until it is back. Try again.",
                headers={"Retry-After": str(RETRY_AFTER)},
                **({"known_at": known_at} if known_at else {}),
            )
        return known_at

    async def refusal(
        self, connection: AsyncConnection, username: str, amounts: Resources, gpu_type: str, home_node: str | None
    ) -> quota_profiles.Reason | None:
        """Why a user cannot have this now, or None, as far as is known."""
        situation = await self._situation(connection, username, home_node, await queries.cluster(connection))
        wanted = quota_profiles.Request(amounts, gpu_type if amounts.gpu else "")
        return quota_profiles.refusal(wanted, situation, self._settings)

    async def overview(self, connection: AsyncConnection, username: str, home_node: str | None) -> Overview:
        """Every size, offered or with the reason why not, and what that rests on."""
        cluster = await queries.cluster(connection)
        if not cluster.nodes:
            # Sizes would be too large for every node, and that would be wrong: nobody knows the nodes yet.
            await self.check_knowledge(connection)
        situation = await self._situation(connection, username, home_node, cluster)
        found = quota_profiles.profiles(situation, self._settings)
        return Overview(found, situation.limits, situation.used + situation.reserved, cluster)

    async def budgets(self, connection: AsyncConnection, username: str) -> list[BudgetState]:
        """A user's budgets with what is used of them now."""
        return await _budgets(connection, await self._policies.current(connection), username)

    async def _situation(
        self, connection: AsyncConnection, username: str, home_node: str | None, cluster: queries.Cluster
    ) -> quota_profiles.Situation:
        current = await self._policies.current(connection)
        use = (await queries.use(connection, username)).get(username, queries.Use())
        pending: list[quota_profiles.Request] = []
        # What is granted to a home on a node will be on that node; all else can come to be anywhere.
        bound: dict[str, Resources] = {}
        for grant in cluster.pending:
            if grant.node:
                bound[grant.node] = bound.get(grant.node, Resources()) + grant.resources
            else:
                pending.append(quota_profiles.Request(grant.resources, grant.gpu_type))
        return quota_profiles.Situation(
            limits=current.limits(username),
            used=use.held,
            reserved=use.reserved,
            budgets=tuple(await _budgets(connection, current, username)),
            nodes=tuple(replace(node, used=node.used + bound.get(node.name, Resources())) for node in cluster.nodes),
            pending=tuple(pending),
            home_node=home_node or "",
        )


async def _budgets(connection: AsyncConnection, current: Current, username: str) -> list[BudgetState]:
    found = current.budgets(username)
    if not found:
        return []
    now = (await connection.execute(sa.select(sa.func.clock_timestamp()))).scalar_one()
    begin = min(budget.window(now)[0] for budget in found).replace(minute=0, second=0, microsecond=0)
    # An hour counts while any of it is within a window; midnights of some zones are not whole hours of UTC.
    hours = await queries.hours_of_use(connection, begin - timedelta(hours=1), username)
    return [
        budget.state(((hour, getattr(used, queries.USED[budget.resource])) for hour, used in hours), now)
        for budget in found
    ]
