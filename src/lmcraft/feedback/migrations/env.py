"""What Alembic runs around the migrations: it uses the connection, and the transaction, that opened the database.

Proved by tests/feedback/test_database.py.
"""

from __future__ import annotations

from alembic import context

from lmcraft.feedback.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
