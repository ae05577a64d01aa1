"""The registry, the access log with its append function, what makes both immutable, and the driver's rights."""

from __future__ import annotations

from mer_migrations.postgres.statements import run

revision = "00"
down_revision = None


def upgrade() -> None:
    """Make the schema of 00."""
    run("00_registry_and_access_log")
