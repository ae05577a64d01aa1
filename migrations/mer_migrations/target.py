"""Which database the settings mean, and how to migrate it: one face for PostgreSQL and SurrealDB.

The same numbers mean the same schema on both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mer.core.errors import ConfigurationError, NotMigrated
from mer.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Migration:
    """One numbered migration."""

    number: int
    name: str

    def __str__(self) -> str:
        return f"{self.number:02} {self.name}"


class Target(Protocol):
    """One database."""

    @property
    def shown(self) -> str:
        """The database for people, without secrets."""

    def known(self) -> Sequence[Migration]:
        """Return the migrations that this program has, by number."""

    def current(self) -> int | None:
        """Return the number of the last one that was applied; None where there was none."""

    def upgrade(self) -> Sequence[Migration]:
        """Apply what is missing, and return it."""


def target(settings: Settings) -> Target:
    """Return the database of the settings. Raises: ConfigurationError."""
    match settings.database_url.partition(":")[0]:
        case "" | "postgresql" | "postgres":
            from mer_migrations.postgres.target import PostgresTarget

            return PostgresTarget(settings)
        case "surrealkv" | "mem":
            return SurrealTarget(settings)
        case scheme:
            raise ConfigurationError(
                f"{scheme}: is no database that this program knows",
                hint="DB_CONNECTION_URL is empty, postgresql://… or surrealkv://PATH.",
            )


def missing(database: Target) -> tuple[Migration, ...]:
    """Return the migrations that the database lacks.

    Raises:
        NotMigrated: it is newer than this program.
    """
    known, current = database.known(), database.current()
    if current is not None and current > known[-1].number:
        raise NotMigrated(
            f"{database.shown} has schema {current:02}, which is newer than this program's {known[-1].number:02}",
            hint="Update mer.",
        )
    return tuple(migration for migration in known if current is None or migration.number > current)


class SurrealTarget:
    """An embedded SurrealDB; the runner is the driver's, since `mem://` can be migrated by nobody else."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def shown(self) -> str:
        from mer.dal.surreal.address import parse_address

        return parse_address(self._settings.database_url).name

    def known(self) -> Sequence[Migration]:
        from mer.dal.surreal.scripts import read_scripts, scripts_folder

        return [Migration(number=script.number, name=script.name) for script in read_scripts(scripts_folder())]

    def current(self) -> int | None:
        from mer.dal.surreal.migrations import open_migrations

        async def ask() -> int | None:
            async with open_migrations(
                self._settings.database_url, lock_seconds=self._settings.lock_seconds
            ) as migrations:
                await migrations.check()
                return max((each.number for each in await migrations.current()), default=None)

        return asyncio.run(ask())

    def upgrade(self) -> Sequence[Migration]:
        from mer.dal.surreal.migrations import open_migrations

        async def apply() -> Sequence[Migration]:
            async with open_migrations(
                self._settings.database_url, lock_seconds=self._settings.lock_seconds
            ) as migrations:
                done = await migrations.upgrade()
                return [Migration(number=script.number, name=script.name) for script in done]

        return asyncio.run(apply())
