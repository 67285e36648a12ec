"""Who changed what: one row in the same transaction as the change."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from . import tables


async def record(
    connection: AsyncConnection, actor: str, action: str, subject: str, before: Any = None, after: Any = None
) -> None:
    """Write a row; `before` and `after` are JSON values, null where there was or is nothing."""
    await connection.execute(
        sa.insert(tables.audit).values(
            actor=actor,
            action=action,
            subject=subject,
            before=sa.null() if before is None else before,
            after=sa.null() if after is None else after,
        )
    )
