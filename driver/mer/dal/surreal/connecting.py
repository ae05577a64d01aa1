"""Which connection a URL means."""

from __future__ import annotations

from mer.core.errors import ConfigurationError
from mer.dal.surreal.address import is_server, parse_address, parse_server_address
from mer.dal.surreal.connection import Connection
from mer.dal.surreal.embedded import EmbeddedConnection
from mer.dal.surreal.login import Login
from mer.dal.surreal.server import RECONNECT_SECONDS, ServerConnection


def connect_to(
    url: str,
    *,
    login: Login | None,
    statement_seconds: float,
    lock_seconds: float,
    idle_seconds: float,
    reconnect_seconds: float = RECONNECT_SECONDS,
) -> Connection:
    """Return the connection that a URL means; nothing is opened yet.

    Raises:
        ConfigurationError: it is no SurrealDB's, or a server's, and nobody is to log in.
    """
    if not is_server(url):
        return EmbeddedConnection(
            parse_address(url),
            statement_seconds=statement_seconds,
            lock_seconds=lock_seconds,
            idle_seconds=idle_seconds,
        )
    address = parse_server_address(url)
    if login is None or not login.name:
        raise ConfigurationError(
            f"nothing says as whom to log in to {address.name}",
            hint="Give DRIVER_DB_USERNAME and DRIVER_DB_PASSWORD; mer-migrate takes MIGRATIONS_DB_USERNAME and _PASSWORD.",
        )
    return ServerConnection(
        address,
        login,
        statement_seconds=statement_seconds,
        lock_seconds=lock_seconds,
        reconnect_seconds=reconnect_seconds,
    )
