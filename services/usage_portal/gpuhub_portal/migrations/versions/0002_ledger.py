"""The ledger: allocations, capacity, idle devices, sessions, witnesses, rollups, and the collector that leads."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002_ledger"
down_revision = "0001_portal"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def _texts(*names: str) -> list[sa.Column]:
    return [sa.Column(name, sa.Text, nullable=False, server_default="") for name in names]


def _amounts(*names: str) -> list[sa.Column]:
    return [sa.Column(name, sa.BigInteger, nullable=False, server_default="0") for name in names]


def _times(*names: str) -> list[sa.Column]:
    return [sa.Column(name, _TIME) for name in names]


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "allocation",
        sa.Column("pod_uid", sa.Text, nullable=False),
        *_texts("namespace", "pod", "username", "group_name", "kind", "servername", "session_id", "reservation"),
        *_texts("refused", "node", "gpu_type"),
        *_amounts("gpu", "cpu_milli", "memory_bytes"),
        *_times("created_at", "scheduled_at", "started_at", "finished_at", "gone_after", "gone_by"),
        *_times("witness_start", "witness_stop", "witness_gone_by", "last_seen_at", "held_from", "held_until"),
        sa.Column("until_source", sa.Text),
        *_times("until_earliest", "until_latest"),
        sa.PrimaryKeyConstraint("pod_uid", name="allocation_pkey"),
        sa.CheckConstraint("held_until >= held_from", name=op.f("allocation_order_check")),
        sa.CheckConstraint("held_until BETWEEN until_earliest AND until_latest", name=op.f("allocation_bounds_check")),
    )
    for name, columns, where in (
        ("open", ["username"], "held_until IS NULL"),
        ("node_gone_by", ["node", "gone_by"], None),
        ("node_untyped", ["node"], "gpu > 0 AND gpu_type = ''"),
        ("session_id", ["session_id"], None),
        ("reservation", ["reservation"], "reservation <> ''"),
        ("namespace_pod", ["namespace", "pod"], None),
        ("held_from", ["held_from"], None),
        ("username_held_from", ["username", "held_from"], None),
    ):
        condition = sa.text(where) if where else None
        op.create_index(f"allocation_{name}_idx", "allocation", columns, postgresql_where=condition)
    op.create_table(
        "capacity",
        sa.Column("node_uid", sa.Text, nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("since_earliest", _TIME, nullable=False),
        sa.Column("since_latest", _TIME, nullable=False),
        *_times("until"),
        *_texts("node", "gpu_type"),
        *_amounts("gpu"),
        sa.Column("reason", sa.Text, nullable=False),
        *_amounts("version"),
        sa.PrimaryKeyConstraint("node_uid", "since", name="capacity_pkey"),
    )
    op.create_index("capacity_node_until_idx", "capacity", ["node", "until"])
    op.create_table(
        "node_state",
        sa.Column("node", sa.Text, nullable=False),
        *_texts("node_uid", "product", "gpu_type"),
        *_amounts("gpu_capacity", "gpu", "cpu_milli", "memory_bytes"),
        sa.Column("ready", sa.Boolean, nullable=False),
        sa.Column("schedulable", sa.Boolean, nullable=False),
        sa.Column("taints", JSONB, nullable=False, server_default="[]"),
        sa.Column("extended", JSONB, nullable=False, server_default="{}"),
        *_amounts("requested_cpu_milli", "requested_memory_bytes"),
        sa.Column("requested_extended", JSONB, nullable=False, server_default="{}"),
        sa.PrimaryKeyConstraint("node", name="node_state_pkey"),
    )
    op.create_table(
        "pod_request",
        sa.Column("pod_uid", sa.Text, nullable=False),
        *_texts("node"),
        *_amounts("cpu_milli", "memory_bytes"),
        sa.Column("extended", JSONB, nullable=False, server_default="{}"),
        sa.PrimaryKeyConstraint("pod_uid", name="pod_request_pkey"),
    )
    op.create_table(
        "idle",
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("since", _TIME, nullable=False),
        *_times("until"),
        *_amounts("gpu", "over"),
        sa.PrimaryKeyConstraint("node", "since", name="idle_pkey"),
        sa.CheckConstraint("until > since", name=op.f("idle_order_check")),
    )
    op.create_index("idle_node_until_idx", "idle", ["node", "until"])
    op.create_table(
        "session",
        sa.Column("id", sa.Text, nullable=False),
        *_texts("username", "group_name", "kind", "name", "gpu_type"),
        sa.Column("started_at", _TIME, nullable=False),
        *_times("ended_at"),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("requests", JSONB, nullable=False, server_default="{}"),
        sa.PrimaryKeyConstraint("id", name="session_pkey"),
        sa.UniqueConstraint("idempotency_key", name="session_idempotency_key_key"),
        sa.CheckConstraint("ended_at >= started_at", name=op.f("session_order_check")),
    )
    op.create_index("session_started_at_id_idx", "session", ["started_at", "id"])
    op.create_index("session_username_started_at_idx", "session", ["username", "started_at"])
    op.create_table(
        "witness",
        sa.Column("producer", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("pod_uid", sa.Text, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("pod", JSONB, nullable=False, server_default="{}"),
        sa.Column("received_at", _TIME, nullable=False, server_default=sa.func.now()),
        *_times("applied_at"),
        sa.PrimaryKeyConstraint("producer", "event_id", name="witness_pkey"),
        sa.CheckConstraint("kind IN ('start', 'stop')", name=op.f("witness_kind_check")),
    )
    op.create_index("witness_new_idx", "witness", ["received_at"], postgresql_where=sa.text("applied_at IS NULL"))
    keys = ("username", "group_name", "kind", "gpu_type")
    op.create_table(
        "rollup_hour",
        sa.Column("hour", _TIME, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in keys),
        *_amounts("gpu_seconds", "cpu_milli_seconds", "memory_mib_seconds", "sessions"),
        sa.PrimaryKeyConstraint("hour", *keys, name="rollup_hour_pkey"),
    )
    op.create_table(
        "rollup_period",
        sa.Column("span", sa.Text, nullable=False),
        sa.Column("begin", _TIME, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in keys),
        *_amounts("gpu_seconds", "cpu_milli_seconds", "memory_mib_seconds", "sessions"),
        sa.PrimaryKeyConstraint("span", "begin", *keys, name="rollup_period_pkey"),
    )
    op.create_table(
        "leader",
        sa.Column("id", sa.SmallInteger, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("since", _TIME, nullable=False, server_default=sa.func.now()),
        sa.Column("time_zone", sa.Text, nullable=False, server_default="UTC"),
        sa.PrimaryKeyConstraint("id", name="leader_pkey"),
        sa.CheckConstraint("id = 1", name=op.f("leader_one_row_check")),
    )
    op.create_table(
        "stream",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("contact_at", _TIME, nullable=False),
        sa.Column("followed_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="stream_pkey"),
    )
