"""The library's two doors: `mer.open()` with the database and its records, `mer.load_unpacked()` without."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mer.meal.library import load_unpacked

if TYPE_CHECKING:
    from mer.api import Mer
    from mer.core.actor import Actor

__all__ = ["load_unpacked", "open"]


@contextlib.asynccontextmanager
async def open(  # noqa: A001 - `mer.open()` is what every user would look for
    *,
    database_url: str | None = None,
    state_folder: str | Path | None = None,
    allow_changes: bool | None = None,
    settings: Mapping[str, object] | None = None,
    env_file: str | Path | None = None,
    actor: Actor | None = None,
) -> AsyncIterator[Mer]:
    """Open MER as the console does: the same settings (environment, .env of MER_HOME, defaults), the same calls.

    What is given here wins over the environment; `settings` takes any other setting by its name (a field of
    mer.settings.Settings; .env.example explains each). `actor` is who is put on record; by default the user who runs
    this process, via the library.

    Raises:
        ConfigurationError, NotMigrated, DatabaseUnreachable, AuthenticationFailed, DatabaseLocked
    """
    from mer.__main__ import compose
    from mer.core.actor import Via
    from mer.settings import load
    from mer.surroundings import current_actor

    given = {
        "database_url": database_url,
        "state_folder": state_folder,
        "allow_changes": allow_changes,
        **(settings or {}),
    }
    flags = {name: value for name, value in given.items() if value is not None}
    loaded = load(environ=os.environ, flags=flags, env_file=Path(env_file) if env_file else None)
    async with compose(loaded, actor=actor or current_actor(Via.LIBRARY, environ=os.environ)) as m:
        yield m
