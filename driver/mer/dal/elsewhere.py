"""A database as one process tells another of the same user: what `Store.elsewhere` gives and `reopened` takes.

It holds the login's password. It goes through a pipe, never into a command line, an environment or a file.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from mer.dal.base import Store
from mer.dal.postgres.connection_settings import ConnectionSettings


class PostgresElsewhere(msgspec.Struct, frozen=True, kw_only=True):
    """A database in PostgreSQL, which any number of processes may open."""

    driver: Literal["postgres"] = "postgres"
    login: ConnectionSettings


def told(login: ConnectionSettings) -> bytes:
    """Return what `reopened` makes a store of."""
    return msgspec.json.encode(PostgresElsewhere(login=login))


def reopened(document: bytes) -> Store:
    """Return a store on the database that another process has open, not opened yet. It never starts a server."""
    from mer.dal.postgres.store import PostgresStore

    return PostgresStore(msgspec.json.decode(document, type=PostgresElsewhere).login)
