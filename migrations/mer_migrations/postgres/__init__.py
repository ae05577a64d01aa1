"""Migrations of Postgres, by Alembic."""
