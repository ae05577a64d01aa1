"""Servers in memory."""

from __future__ import annotations

from mer.core.errors import ServerNotFound
from mer.core.records import Server
from mer.dal.memory.names import NamedRows
from mer.dal.memory.tables import Tables


class MemoryServers(NamedRows[Server]):
    """Servers, by name."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables.servers, tables.server_names, noun="server", missing=ServerNotFound)
