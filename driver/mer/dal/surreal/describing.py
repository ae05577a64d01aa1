"""What a SurrealDB says of itself; it need not be migrated."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from pathlib import Path

from mer.dal.description import Description
from mer.dal.surreal.connection import Connection
from mer.dal.surreal.embedded import EmbeddedConnection
from mer.dal.surreal.login import Login

MAX_FILES = 100_000
"""Files of a folder whose sizes are added up: an engine keeps some hundreds."""

UNTOLD_EMBEDDED = "roles: it has no users, whoever may open the folder may do all; connections: one process at a time"
UNTOLD_SERVER = (
    "size and connections, which the engine has no answer for; who else may log in, which only its owner may read"
)


async def describe(connection: Connection, login: Login | None) -> Description:
    """Ask the engine. Raises: DatabaseUnreachable, DatabaseLocked, AuthenticationFailed, NotMigrated."""
    engine = (await connection.version()).removeprefix("surrealdb-").partition("+")[0]
    client = f"surrealdb {version('surrealdb')}"
    if isinstance(connection, EmbeddedConnection):
        folder = connection.address.folder
        size = await asyncio.to_thread(_size, folder) if folder else None
        return Description(
            server=f"SurrealDB {engine}, in this process", client=client, size=size, untold=UNTOLD_EMBEDDED
        )
    encrypted = "yes" if connection.name.startswith(("wss:", "https:")) else "no"
    return Description(
        server=f"SurrealDB {engine}",
        client=client,
        login=f"{login.name} (as {login.role})" if login else None,
        encrypted=encrypted,
        untold=UNTOLD_SERVER,
    )


def _size(folder: Path) -> int:
    size = 0
    for number, path in enumerate(folder.rglob("*")):
        if number > MAX_FILES:
            break
        try:
            size += path.lstat().st_size
        except FileNotFoundError:  # the engine removes files as it goes
            continue
    return size
