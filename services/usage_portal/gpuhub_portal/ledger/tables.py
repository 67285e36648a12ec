"""Tables of the ledger. Only the collector that leads writes them, but for `session` and `witness`."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from gpuhub_portal.tables import Time, metadata


def _text(name: str) -> sa.Column:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _amount(name: str) -> sa.Column:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


# One row per pod. The columns up to last_seen_at are facts, each of which only ever gets more precise; those from
# held_from on follow from the facts by `facts.hold`.
allocation = sa.Table(
    "allocation",
    metadata,
    sa.Column("pod_uid", sa.Text, primary_key=True),
    _text("namespace"),
    _text("pod"),
    _text("username"),
    _text("group_name"),
    _text("kind"),  # notebook | job | other
    _text("servername"),
    _text("session_id"),
    _text("reservation"),
    _text("refused"),  # the reason of a kubelet that did not let it in
    _text("node"),
    _text("gpu_type"),
    _amount("gpu"),
    _amount("cpu_milli"),
    _amount("memory_bytes"),
    sa.Column("created_at", Time),
    sa.Column("scheduled_at", Time),
    sa.Column("started_at", Time),
    sa.Column("finished_at", Time),
    sa.Column("gone_after", Time),  # the pod was still there, and ...
    sa.Column("gone_by", Time),  # ... no longer; the same time where the removal itself was seen
    sa.Column("witness_start", Time),
    sa.Column("witness_stop", Time),
    sa.Column("witness_gone_by", Time),  # as found out by a witness who does not know when it ended
    sa.Column("last_seen_at", Time),
    sa.Column("held_from", Time),
    sa.Column("held_until", Time),
    sa.Column("until_source", sa.Text),  # observed | witness | inferred
    sa.Column("until_earliest", Time),
    sa.Column("until_latest", Time),
    sa.CheckConstraint("held_until >= held_from", name="order"),
    sa.CheckConstraint("held_until BETWEEN until_earliest AND until_latest", name="bounds"),
    sa.Index("allocation_open_idx", "username", postgresql_where=sa.text("held_until IS NULL")),
    sa.Index("allocation_node_gone_by_idx", "node", "gone_by"),
    sa.Index("allocation_node_untyped_idx", "node", postgresql_where=sa.text("gpu > 0 AND gpu_type = ''")),
    sa.Index("allocation_session_id_idx", "session_id"),
    sa.Index("allocation_reservation_idx", "reservation", postgresql_where=sa.text("reservation <> ''")),
    sa.Index("allocation_namespace_pod_idx", "namespace", "pod"),
    sa.Index("allocation_held_from_idx", "held_from"),
    sa.Index("allocation_username_held_from_idx", "username", "held_from"),
)

# Devices of a node that pods could be given, from one change to the next.
capacity = sa.Table(
    "capacity",
    metadata,
    sa.Column("node_uid", sa.Text, primary_key=True),
    sa.Column("since", Time, primary_key=True),
    sa.Column("since_earliest", Time, nullable=False),
    sa.Column("since_latest", Time, nullable=False),
    sa.Column("until", Time),
    _text("node"),
    _text("gpu_type"),
    _amount("gpu"),
    sa.Column("reason", sa.Text, nullable=False),  # joined | ready | not_ready | devices | removed
    _amount("version"),  # resourceVersion of the node object
    sa.Index("capacity_node_until_idx", "node", "until"),
)

# What each node has now and what all pods on it request: what decisions about new pods rest on. `gpu` counts healthy
# devices; devices that are held are those of open allocations.
node_state = sa.Table(
    "node_state",
    metadata,
    sa.Column("node", sa.Text, primary_key=True),
    _text("node_uid"),
    _text("product"),
    _text("gpu_type"),
    _amount("gpu_capacity"),
    _amount("gpu"),
    _amount("cpu_milli"),
    _amount("memory_bytes"),
    sa.Column("ready", sa.Boolean, nullable=False),
    sa.Column("schedulable", sa.Boolean, nullable=False),
    sa.Column("taints", JSONB, nullable=False, server_default="[]"),  # those that keep new pods away
    sa.Column("extended", JSONB, nullable=False, server_default="{}"),  # other resources -> allocatable
    _amount("requested_cpu_milli"),
    _amount("requested_memory_bytes"),
    sa.Column("requested_extended", JSONB, nullable=False, server_default="{}"),
)

# What every pod takes of its node, also those that the ledger does not keep: a collector that begins goes on from here.
pod_request = sa.Table(
    "pod_request",
    metadata,
    sa.Column("pod_uid", sa.Text, primary_key=True),
    _text("node"),
    _amount("cpu_milli"),
    _amount("memory_bytes"),
    sa.Column("extended", JSONB, nullable=False, server_default="{}"),
)

# Devices that nobody held (gpu), and devices held beyond what the node offered at that time (over). A piece where both
# are 0 has no row. By name of the node: that is how a pod states it, also before the node itself has been seen.
idle = sa.Table(
    "idle",
    metadata,
    sa.Column("node", sa.Text, primary_key=True),
    sa.Column("since", Time, primary_key=True),
    sa.Column("until", Time),
    _amount("gpu"),
    _amount("over"),
    sa.CheckConstraint("until > since", name="order"),
    sa.Index("idle_node_until_idx", "node", "until"),
)

session = sa.Table(
    "session",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _text("username"),
    _text("group_name"),
    _text("kind"),
    _text("name"),
    _text("gpu_type"),
    sa.Column("started_at", Time, nullable=False),
    sa.Column("ended_at", Time),
    sa.Column("source", sa.Text, nullable=False),  # pod | external
    sa.Column("idempotency_key", sa.Text, unique=True),
    sa.Column("requests", JSONB, nullable=False, server_default="{}"),
    sa.CheckConstraint("ended_at >= started_at", name="order"),
    sa.Index("session_started_at_id_idx", "started_at", "id"),
    sa.Index("session_username_started_at_idx", "username", "started_at"),
)

# What the spawner saw itself. Whoever receives it inserts it (ON CONFLICT DO NOTHING); the collector applies it.
witness = sa.Table(
    "witness",
    metadata,
    sa.Column("producer", sa.Text, primary_key=True),
    sa.Column("event_id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, sa.CheckConstraint("kind IN ('start', 'stop')", name="kind"), nullable=False),
    sa.Column("pod_uid", sa.Text, nullable=False),
    sa.Column("at", Time, nullable=False),
    # Of a pod that the watch may never see: namespace, pod, username, servername, kind, node, gpu, cpu_milli, ...
    sa.Column("pod", JSONB, nullable=False, server_default="{}"),
    sa.Column("received_at", Time, nullable=False, server_default=sa.func.now()),
    sa.Column("applied_at", Time),
    sa.Index("witness_new_idx", "received_at", postgresql_where=sa.text("applied_at IS NULL")),
)

# Closed intervals only; what is still held is added when it is read (`reports.usage_by_hour`).
rollup_hour = sa.Table(
    "rollup_hour",
    metadata,
    sa.Column("hour", Time, primary_key=True),
    sa.Column("username", sa.Text, primary_key=True),
    sa.Column("group_name", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("gpu_type", sa.Text, primary_key=True),
    _amount("gpu_seconds"),
    _amount("cpu_milli_seconds"),
    _amount("memory_mib_seconds"),
    _amount("sessions"),  # that began in this hour
)

# The same sums by day, month and quarter of `leader.time_zone`. They follow from the hours, and are written with them.
rollup_period = sa.Table(
    "rollup_period",
    metadata,
    sa.Column("span", sa.Text, primary_key=True),  # day | month | quarter
    sa.Column("begin", Time, primary_key=True),  # its first whole hour
    sa.Column("username", sa.Text, primary_key=True),
    sa.Column("group_name", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("gpu_type", sa.Text, primary_key=True),
    _amount("gpu_seconds"),
    _amount("cpu_milli_seconds"),
    _amount("memory_mib_seconds"),
    _amount("sessions"),
)

# One row. Every transaction of a collector locks it and compares the epoch, so that one that was thought dead writes
# nothing.
leader = sa.Table(
    "leader",
    metadata,
    sa.Column("id", sa.SmallInteger, sa.CheckConstraint("id = 1", name="one_row"), primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("since", Time, nullable=False, server_default=sa.func.now()),
    # Whose days and so on `rollup_period` has. Here, so that who has the lock knows it.
    sa.Column("time_zone", sa.Text, nullable=False, server_default="UTC"),
)

# Up to where the rows above have followed a stream of the API server.
stream = sa.Table(
    "stream",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("contact_at", Time, nullable=False),  # up to when all is known, for certain
    sa.Column("followed_at", Time, nullable=False),  # up to when all is known, unless a connection has died unnoticed
)
