"""Migrates an embedded database that is behind: a child `mer-migrate upgrade`, so that `mer` never holds the owner's login.

The settings travel by the environment, where no process list shows them.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

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
        "MER_LOCK_SECONDS": str(settings.lock_seconds),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # a folder of that name in the current one is not the migrations program
        "-m",
        "mer_migrations",
        "upgrade",
        env={"LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(UPGRADE_SECONDS):
            _, told = await process.communicate()
    except TimeoutError as error:
        raise NotMigrated(f"mer-migrate did not end within {UPGRADE_SECONDS:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()  # every migration is one transaction: what is cut off has not happened
            await process.wait()
    if process.returncode:
        words = told.decode(errors="replace").strip()[-MAX_MESSAGE:] or "it said nothing"
        raise _ERRORS.get(process.returncode, NotMigrated)(
            f"mer-migrate upgrade failed ({process.returncode}): {words}"
        )
