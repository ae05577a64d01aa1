"""Servers in PostgreSQL."""

from __future__ import annotations

from mer.core.errors import ServerNotFound
from mer.core.records import Server
from mer.dal.postgres.names import NamedRows
from mer.dal.postgres.session import Session


class PostgresServers(NamedRows[Server]):
    """Servers, by name."""

    def __init__(self, session: Session) -> None:
        super().__init__(session, Server, noun="server", missing=ServerNotFound, file="servers")
