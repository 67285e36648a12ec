"""When a session or an hour was changed last, for copies of them elsewhere."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_changes"
down_revision = "0002_ledger"
branch_labels = None
depends_on = None

_HOUR = ("hour", "username", "group_name", "kind", "gpu_type")


def upgrade() -> None:
    """Make the tables and what fills them; what there is already has been changed now."""
    op.create_table(
        "session_change",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("changed", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="session_change_pkey"),
    )
    op.create_index("session_change_changed_id_idx", "session_change", ["changed", "id"])
    op.create_table(
        "rollup_change",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in _HOUR[1:]),
        sa.Column("changed", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint(*_HOUR, name="rollup_change_pkey"),
    )
    op.create_index("rollup_change_changed_idx", "rollup_change", ["changed", *_HOUR])
    _note("session", "session_change", ("id",))
    _note("rollup_hour", "rollup_change", _HOUR)


def _note(table: str, changes: str, key: tuple[str, ...]) -> None:
    """Note changes of `table`, once for all rows of a statement."""
    columns = ", ".join(key)
    number = "pg_current_xact_id()::text::bigint"
    op.execute(f"INSERT INTO {changes} ({columns}, changed) SELECT {columns}, {number} FROM {table}")
    op.execute(f"""
        CREATE FUNCTION note_{changes}() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO {changes} ({columns}, changed) SELECT {columns}, {number} FROM touched ORDER BY {columns}
            ON CONFLICT ({columns}) DO UPDATE SET changed = excluded.changed;
            RETURN NULL;
        END
        $$
    """)
    for event, rows in (("insert", "NEW"), ("update", "NEW"), ("delete", "OLD")):
        op.execute(
            f"CREATE TRIGGER {changes}_{event} AFTER {event.upper()} ON {table} REFERENCING {rows} TABLE AS touched"
            f" FOR EACH STATEMENT EXECUTE FUNCTION note_{changes}()"
        )
