"""Tokens, logins, policy, rates, audit, reservations, ends of notebooks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0001_portal"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables, and the one row that counts changes of the policy."""
    op.create_table(
        "token",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("scopes", ARRAY(sa.Text), nullable=False),
        sa.Column("created_at", _TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("expires_at", _TIME),
        sa.Column("revoked_at", _TIME),
        sa.Column("last_used_at", _TIME),
        sa.PrimaryKeyConstraint("id", name="token_pkey"),
        sa.UniqueConstraint("digest", name="token_digest_key"),
    )
    op.create_table(
        "login",
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("username", sa.Text, nullable=False),
        sa.Column("admin", sa.Boolean, nullable=False),
        sa.Column("created_at", _TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="login_pkey"),
    )
    op.create_index("login_expires_at_idx", "login", ["expires_at"])
    state = op.create_table(
        "policy_state",
        sa.Column("id", sa.SmallInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="policy_state_pkey"),
        sa.CheckConstraint("id = 1", name=op.f("policy_state_one_row_check")),
    )
    op.bulk_insert(state, [{"id": 1, "version": 1}])
    op.create_table(
        "policy_subject",
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("document", JSONB, nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", name="policy_subject_pkey"),
        sa.CheckConstraint("kind IN ('default', 'group', 'user')", name=op.f("policy_subject_kind_check")),
    )
    op.create_table(
        "policy_member",
        sa.Column("group_name", sa.Text, nullable=False),
        sa.Column("username", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("group_name", "username", name="policy_member_pkey"),
    )
    op.create_index("policy_member_username_idx", "policy_member", ["username"])
    op.create_table(
        "rate",
        sa.Column("valid_from", _TIME, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("gpu_hour_micro", JSONB, nullable=False),
        sa.Column("cpu_hour_micro", sa.BigInteger, nullable=False),
        sa.Column("memory_gib_hour_micro", sa.BigInteger, nullable=False),
        sa.Column("created_at", _TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("valid_from", name="rate_pkey"),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("at", _TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("before", JSONB),
        sa.Column("after", JSONB),
        sa.PrimaryKeyConstraint("id", name="audit_pkey"),
    )
    op.create_index("audit_at_idx", "audit", ["at"])
    op.create_index("audit_subject_idx", "audit", ["subject"])
    op.create_table(
        "reservation",
        sa.Column("id", sa.Uuid, nullable=False),
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
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("ended_at", _TIME),
        sa.Column("pod_uid", sa.Text),
        sa.PrimaryKeyConstraint("id", name="reservation_pkey"),
        sa.UniqueConstraint("owner", "idempotency_key", name="reservation_owner_idempotency_key_key"),
        sa.CheckConstraint(
            "state IN ('active', 'settled', 'released', 'expired')", name=op.f("reservation_state_check")
        ),
    )
    op.create_index(
        "reservation_active_idx",
        "reservation",
        ["username", "expires_at"],
        postgresql_where=sa.text("state = 'active'"),
    )
    op.create_index("reservation_created_at_id_idx", "reservation", ["created_at", "id"])
    op.create_table(
        "enforcement",
        sa.Column("pod_uid", sa.Text, nullable=False),
        sa.Column("ends_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("pod_uid", name="enforcement_pkey"),
    )
    op.create_table(
        "extension",
        sa.Column("username", sa.Text, nullable=False),
        sa.Column("until", _TIME, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("username", name="extension_pkey"),
    )
