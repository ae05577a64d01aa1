"""What a database can say of itself, for an operator who asks which one he is on."""

from __future__ import annotations

import msgspec


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """One database as its store sees it. None is what this kind of database, or this login, cannot tell."""

    server: str
    """Product and version."""
    client: str
    """What speaks to it."""
    login: str | None = None
    """Whom this program is logged in as."""
    owner: str | None = None
    """Whose the tables are: who migrates them."""
    drivers: tuple[str, ...] | None = None
    """Who may append to the access log."""
    auditors: tuple[str, ...] | None = None
    """Who may read it and no more."""
    encrypted: str | None = None
    """How the connection is: a version of TLS, or `no`."""
    size: int | None = None
    """Bytes on its disk."""
    connections: int | None = None
    """To the server, at this moment, this one among them."""
    connection_limit: int | None = None
    untold: str | None = None
    """What of all this it cannot tell, and why."""
