"""Which migration a database has: one row that the migrations program keeps."""

from __future__ import annotations

from mer.core.errors import NotMigrated
from mer.dal.base import SCHEMA
from mer.dal.postgres.errors import UPGRADE

CURRENT = "SELECT max(number) AS number FROM mer.migration"


def check_schema(current: int | None, shown: str) -> None:
    """Make sure that the database has the schema of this program.

    Raises:
        NotMigrated: it is behind, or ahead.
    """
    if current == SCHEMA:
        return
    if current is None:
        raise NotMigrated(f"{shown} was never migrated", hint=UPGRADE)
    if current < SCHEMA:
        raise NotMigrated(f"{shown} has schema {current:02}, this program needs {SCHEMA:02}", hint=UPGRADE)
    raise NotMigrated(
        f"{shown} has schema {current:02}, which is newer than this program's {SCHEMA:02}", hint="Update mer."
    )
