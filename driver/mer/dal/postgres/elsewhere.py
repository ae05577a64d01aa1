"""How to reach a database in PostgreSQL, as one process tells another of the same user.

It holds the login's password. It goes through a pipe, never into a command line, an environment or a file.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from mer.dal.postgres.connection_settings import ConnectionSettings


class PostgresElsewhere(msgspec.Struct, frozen=True, kw_only=True):
    """A database in PostgreSQL, which any number of processes may open."""

    driver: Literal["postgres"] = "postgres"
    login: ConnectionSettings


def told(login: ConnectionSettings) -> bytes:
    """Return what `heard` reads."""
    return msgspec.json.encode(PostgresElsewhere(login=login))


def heard(document: bytes) -> ConnectionSettings:
    """Return the login that another process tells."""
    return msgspec.json.decode(document, type=PostgresElsewhere).login
