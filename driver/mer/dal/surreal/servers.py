"""Servers in SurrealDB."""

from __future__ import annotations

from mer.core.errors import ServerNotFound
from mer.core.records import Server
from mer.dal.surreal.executor import Executor
from mer.dal.surreal.names import NamedRows


class SurrealServers(NamedRows[Server]):
    """Servers, by name."""

    def __init__(self, run: Executor) -> None:
        super().__init__(run, record=Server, repository="servers", noun="server", missing=ServerNotFound)
