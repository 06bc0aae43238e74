"""Alembic migrations of the journal, run from code when it is opened."""
