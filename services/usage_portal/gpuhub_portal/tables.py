"""Tables of the portal's database, in the one MetaData that the ledger's tables join.

Amounts are those of `gpuhub_core.quantities`: CPU in milli-cores, memory in bytes, GPUs as devices; money in
micro-units of a currency. Times are timestamptz.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = sa.MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)

Time = sa.DateTime(timezone=True)
_now = sa.func.now()

# Bearer tokens. The token itself is nowhere, only its SHA-256.
token = sa.Table(
    "token",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("scopes", ARRAY(sa.Text), nullable=False),
    sa.Column("created_at", Time, nullable=False, server_default=_now),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("expires_at", Time),
    sa.Column("revoked_at", Time),
    sa.Column("last_used_at", Time),
)

# People who are logged in. The cookie holds the id, signed; logging out ends it everywhere.
login = sa.Table(
    "login",
    metadata,
    sa.Column("digest", sa.LargeBinary, primary_key=True),
    sa.Column("username", sa.Text, nullable=False),
    sa.Column("admin", sa.Boolean, nullable=False),
    sa.Column("created_at", Time, nullable=False, server_default=_now),
    sa.Column("expires_at", Time, nullable=False, index=True),
)

# One row, locked by whoever changes the policy; its version tells other processes that theirs is out of date.
policy_state = sa.Table(
    "policy_state",
    metadata,
    sa.Column("id", sa.SmallInteger, sa.CheckConstraint("id = 1", name="one_row"), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
)

# Limits and budgets of the default, a group or a user, as the policy file writes them.
policy_subject = sa.Table(
    "policy_subject",
    metadata,
    sa.Column(
        "kind", sa.Text, sa.CheckConstraint("kind IN ('default', 'group', 'user')", name="kind"), primary_key=True
    ),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("document", JSONB, nullable=False),
)

policy_member = sa.Table(
    "policy_member",
    metadata,
    sa.Column("group_name", sa.Text, primary_key=True),
    sa.Column("username", sa.Text, primary_key=True, index=True),
)

# What an hour costs from a time on. A row whose time has come is never changed.
rate = sa.Table(
    "rate",
    metadata,
    sa.Column("valid_from", Time, primary_key=True),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("gpu_hour_micro", JSONB, nullable=False),  # GPU type or "default" -> micro-units
    sa.Column("cpu_hour_micro", sa.BigInteger, nullable=False),
    sa.Column("memory_gib_hour_micro", sa.BigInteger, nullable=False),
    sa.Column("created_at", Time, nullable=False, server_default=_now),
    sa.Column("created_by", sa.Text, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("at", Time, nullable=False, server_default=_now, index=True),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False, index=True),
    sa.Column("before", JSONB),
    sa.Column("after", JSONB),
)

# What has been granted and is not yet seen as a pod that holds it.
reservation = sa.Table(
    "reservation",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("idempotency_key", sa.Text, nullable=False),
    sa.Column("request_digest", sa.LargeBinary, nullable=False),
    sa.Column("username", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("cpu_milli", sa.BigInteger, nullable=False),
    sa.Column("memory_bytes", sa.BigInteger, nullable=False),
    sa.Column("gpu", sa.Integer, nullable=False),
    sa.Column("gpu_type", sa.Text),
    sa.Column("home_node", sa.Text),
    sa.Column(
        "state",
        sa.Text,
        sa.CheckConstraint("state IN ('active', 'settled', 'released', 'expired')", name="state"),
        nullable=False,
    ),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("expires_at", Time, nullable=False),
    sa.Column("ended_at", Time),
    sa.Column("pod_uid", sa.Text),
    sa.UniqueConstraint("owner", "idempotency_key"),
    sa.Index("reservation_active_idx", "username", "expires_at", postgresql_where=sa.text("state = 'active'")),
    sa.Index("reservation_created_at_id_idx", "created_at", "id"),
)

# Notebooks of which it was said that they end, and when: it may not become sooner without notice.
enforcement = sa.Table(
    "enforcement",
    metadata,
    sa.Column("pod_uid", sa.Text, primary_key=True),
    sa.Column("ends_at", Time, nullable=False),
)

# Until when a user's running notebooks do not end with their budgets.
extension = sa.Table(
    "extension",
    metadata,
    sa.Column("username", sa.Text, primary_key=True),
    sa.Column("until", Time, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("created_at", Time, nullable=False, server_default=_now),
    sa.Column("created_by", sa.Text, nullable=False),
)

# When a session or an hour of the ledger was changed last, or removed: the transaction's number, which triggers write.
# Numbers below that of the oldest transaction under way do not come any more (`mysql_sync`).
session_change = sa.Table(
    "session_change",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("changed", sa.BigInteger, nullable=False),
    sa.Index("session_change_changed_id_idx", "changed", "id"),
)

rollup_change = sa.Table(
    "rollup_change",
    metadata,
    sa.Column("hour", Time, primary_key=True),
    *(sa.Column(name, sa.Text, primary_key=True) for name in ("username", "group_name", "kind", "gpu_type")),
    sa.Column("changed", sa.BigInteger, nullable=False),
    sa.Index("rollup_change_changed_idx", "changed", "hour", "username", "group_name", "kind", "gpu_type"),
)
