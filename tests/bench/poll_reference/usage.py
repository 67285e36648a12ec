"""A page of use and cost, added up from the rows of pods each time that it is asked for."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

# Each pod is cut at the ends of the time and where another rate begins. One statement: the database adds up.
_USAGE = sa.text("""
    WITH priced AS (
        SELECT *, coalesce(lead(valid_from) OVER (ORDER BY valid_from), 'infinity') AS valid_until FROM rate
    ), pieces AS (
        SELECT a.username, a.gpu, a.cpu_milli, (a.memory_bytes + 1048575) / 1048576 AS mib, p.*,
               lower(a.gpu_type) AS gpu_type, held_from >= greatest(:begin, valid_from) AS begins,
               extract(epoch FROM least(coalesce(held_until, now()), :end, valid_until)
                                  - greatest(held_from, :begin, valid_from))::bigint AS seconds
        FROM allocation a
        JOIN priced p ON p.valid_from < coalesce(a.held_until, now()) AND p.valid_until > a.held_from
        WHERE a.held_from < :end AND (a.held_until > :begin OR a.held_until IS NULL)
    )
    SELECT username, sum(seconds * gpu)::bigint, sum(seconds * cpu_milli)::bigint, sum(seconds * mib)::bigint,
           count(*) FILTER (WHERE begins),
           sum(seconds::numeric * gpu * coalesce((gpu_hour_micro ->> gpu_type)::numeric,
                                                 (gpu_hour_micro ->> 'default')::numeric, 0)
               + seconds::numeric * cpu_milli * cpu_hour_micro / 1000
               + seconds::numeric * mib * memory_gib_hour_micro / 1024) / 3600
    FROM pieces GROUP BY username ORDER BY username
""").bindparams(
    sa.bindparam("begin", type_=sa.DateTime(timezone=True)), sa.bindparam("end", type_=sa.DateTime(timezone=True))
)


def by_user(connection: sa.Connection, begin: datetime, end: datetime) -> list[Any]:
    """(user, GPU seconds, milli-core seconds, MiB seconds, sessions, micro-units of the currency) of every user."""
    return list(connection.execute(_USAGE, {"begin": begin, "end": end}))
