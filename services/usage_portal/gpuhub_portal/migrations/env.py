"""Run by Alembic: migrations in one transaction, on the database that `gpuhub_portal.database.migrate` names."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context
from gpuhub_portal.ledger.tables import metadata

engine = sa.create_engine(context.config.attributes["url"], poolclass=sa.NullPool, hide_parameters=True)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
