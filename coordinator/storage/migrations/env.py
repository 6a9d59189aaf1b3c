"""Alembic environment: used from ``coordinator.storage.store`` with a connection, never from a command line."""

from alembic import context

from coordinator.storage.models import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection, target_metadata=Base.metadata, render_as_batch=True, compare_type=True
)
with context.begin_transaction():
    context.run_migrations()
