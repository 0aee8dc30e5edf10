"""Alembic's migrations of the feedback store, run when a database is opened."""
