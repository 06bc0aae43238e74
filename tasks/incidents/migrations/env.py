"""Runs the migrations in the transaction that the caller opened (see tasks.incidents.database)."""

from __future__ import annotations

from alembic import context

from tasks.incidents.models import VERSION_TABLE, Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
context.run_migrations()
