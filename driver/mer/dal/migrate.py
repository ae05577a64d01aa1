"""Migrates an embedded database that is behind: a child `mer-migrate upgrade`, so that `mer` never holds the owner's login.

The settings travel by the environment, where no process list shows them.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from typing import TYPE_CHECKING

from mer import children
from mer.core.errors import (
    AuthenticationFailed,
    ConfigurationError,
    DatabaseLocked,
    DatabaseUnreachable,
    MerError,
    NotMigrated,
)

if TYPE_CHECKING:
    from mer.settings import Settings

UPGRADE_SECONDS = 600.0
"""How long migrations may take: the first takes one second, a later one may rewrite a long log."""

MAX_MESSAGE = 2000
"""Characters of the child's last words that are shown."""

MAX_SAID = 4 * MAX_MESSAGE
"""Bytes of them that are read: a character has four at most."""

_ERRORS: dict[int, type[MerError]] = {
    kind.exit_code: kind for kind in (DatabaseUnreachable, DatabaseLocked, AuthenticationFailed, ConfigurationError)
}


async def upgrade_embedded(settings: Settings) -> None:
    """Bring the settings' embedded database to the schema of this program.

    Raises:
        The child's own error by its exit code, with its words.
    """
    variables = {
        "DB_CONNECTION_URL": settings.database_url,
        "MER_STATE_FOLDER": str(settings.state_folder.absolute()),
        "MER_SOCKET_FOLDER": str(settings.socket_folder.absolute()) if settings.socket_folder else "",
        "MER_DATABASE_SECONDS": str(settings.database_seconds),
        "MER_DATABASE_IDLE_SECONDS": str(settings.database_idle_seconds),  # it may be the first to watch the server
        "MER_LOCK_SECONDS": str(settings.lock_seconds),
    }
    with tempfile.TemporaryFile() as said:  # no pipe: what the child started, a server say, might keep that open
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # a folder of that name in the current one is not the migrations program
            "-m",
            "mer_migrations",
            "upgrade",
            env={"LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **variables},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=said,
        )
        try:
            async with asyncio.timeout(UPGRADE_SECONDS):
                status = await process.wait()
        except TimeoutError as error:
            raise NotMigrated(f"mer-migrate did not end within {UPGRADE_SECONDS:g} s") from error
        finally:
            await children.end(process)  # every migration is one transaction: what is cut off has not happened
        if status:
            said.seek(-min(MAX_SAID, said.seek(0, os.SEEK_END)), os.SEEK_END)
            words = said.read().decode(errors="replace").strip()[-MAX_MESSAGE:] or "it said nothing"
            raise _ERRORS.get(status, NotMigrated)(f"mer-migrate upgrade failed ({status}): {words}")
