"""Run by alembic; the connection comes from the store, there is no offline mode."""

from __future__ import annotations

from alembic import context

from gateway.launch.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
