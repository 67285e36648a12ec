"""What a running portal consists of."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Request

from .cache import LimitsCache
from .database import Database
from .hub_login import Logins
from .metrics import Metrics
from .policy import Policies
from .rules import Rules
from .settings import Settings
from .tokens import Tokens


class Portal:
    """The parts, made once; routes get it by `Here`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(
            settings.database(), pool_size=settings.database_pool_size, pool_timeout=settings.database_pool_timeout
        )
        self.metrics = Metrics()
        self.policies = Policies(settings.time_zone)
        self.rules = Rules(self.policies, settings.profiles, timedelta(seconds=settings.collector_seconds))
        self.tokens = Tokens(self.database, settings.admin_token_file, settings.cache_seconds)
        self.logins = Logins(settings, self.database) if settings.hub_url is not None else None
        # Decisions wait for each other in the database anyway. Here they wait without a connection of the pool, so that
        # a hundred starts at once leave the rest of the API its connections.
        self.deciding = asyncio.Lock()
        self.limits = LimitsCache(self.database, self.policies, self.metrics, settings.cache_seconds)

    async def close(self) -> None:
        """Close every connection."""
        if self.logins is not None:
            await self.logins.close()
        await self.database.close()


async def _here(request: Request) -> Portal:
    return request.app.state.portal


Here = Annotated[Portal, Depends(_here)]
