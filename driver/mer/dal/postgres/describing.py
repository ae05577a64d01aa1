"""What a PostgreSQL database says of itself; it need not be migrated."""

from __future__ import annotations

import psycopg
from psycopg.pq import version

from mer.core.errors import NotMigrated
from mer.dal.description import Description
from mer.dal.postgres.queries import queries
from mer.dal.postgres.session import Session


async def describe(session: Session) -> Description:
    """Ask the server. Raises: DatabaseUnreachable, AuthenticationFailed."""
    asked = queries("describe")
    (found,) = await session.ask(asked["describe"], repeatable=True)
    try:
        roles = await session.ask(asked["roles"], repeatable=True)
    except NotMigrated:
        roles = []
    major, minor = divmod(version(), 10_000)
    return Description(
        server=f"PostgreSQL {found['version']}",
        client=f"psycopg {psycopg.__version__}, libpq {major}.{minor}",
        login=found["login"],
        owner=next((role["name"] for role in roles if role["owner"]), None),
        drivers=tuple(role["name"] for role in roles if role["driver"] and not role["owner"]),
        auditors=tuple(role["name"] for role in roles if not role["driver"] and not role["owner"]),
        encrypted=found["encrypted"],
        size=found["size"],
        connections=found["connections"],
        connection_limit=found["connection_limit"],
    )
