"""The registry, the access log with its append function, and what makes both immutable."""

from mer_migrations.postgres.revisions import run

revision = "00"
down_revision = None
upgrade = downgrade = run
