"""One migrates at a time: a lock of the database's, held by a connection and gone with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from mer.core.errors import DatabaseLocked
from mer_migrations.postgres.connect import Connection

KEY = 0x6D65725F6D696772
"""Of pg_advisory_lock: "mer_migr". Who holds it migrates."""

# how the catalog tells one key of 64 bits from two of 32
_HOLDER = """
SELECT a.pid, a.usename, coalesce(host(a.client_addr), 'this machine') AS place, a.application_name, a.backend_start
FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.classid::bigint = %s AND l.objid::bigint = %s"""


@contextmanager
def migrating(connection: Connection, shown: str, *, seconds: float) -> Iterator[None]:
    """Hold the lock in this block. The connection is in no transaction.

    Raises:
        DatabaseLocked: another has held it for so long; who that is.
    """
    connection.execute(
        "SELECT set_config('lock_timeout', %s, false), set_config('application_name', 'mer-migrate', false)",
        (f"{round(seconds * 1000)}ms",),
    )
    try:
        connection.execute("SELECT pg_advisory_lock(%s)", (KEY,))
    except psycopg.errors.LockNotAvailable as error:
        raise DatabaseLocked(
            f"another program has been migrating {shown} for {seconds:g} s: {_holder(connection)}",
            hint="Wait for it, or end it: a migration that is cut off has not happened.",
        ) from error
    try:
        yield
    finally:
        with suppress(psycopg.Error):  # a connection that is gone has given it back
            connection.execute("SELECT pg_advisory_unlock(%s)", (KEY,))


def _holder(connection: Connection) -> str:
    row = connection.execute(_HOLDER, (KEY >> 32, KEY & 0xFFFFFFFF)).fetchone()
    if row is None:
        return "it has just ended"
    pid, user, place, program, since = row
    if user is None:  # another role's sessions are shown in part
        return f"process {pid} of the server"
    return f"{user} from {place} ({program or 'unnamed'}, process {pid} of the server, since {since:%H:%M:%S} UTC)"
