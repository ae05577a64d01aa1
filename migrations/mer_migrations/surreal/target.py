"""A SurrealDB as the migrations program sees it; the runner is the driver's, since `mem://` can be migrated by nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from mer.core.errors import UsageError
from mer.dal.surreal.address import parse_address
from mer.dal.surreal.migrations import Migrations, open_migrations
from mer.dal.surreal.scripts import read_scripts, scripts_folder
from mer.settings import Settings
from mer_migrations.target import Applied, Migration, Planned

Answer = TypeVar("Answer")


class SurrealTarget:
    """An embedded SurrealDB."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def shown(self) -> str:
        return parse_address(self._settings.database_url).name

    def known(self) -> Sequence[Migration]:
        return [Migration(number=script.number, name=script.name) for script in read_scripts(scripts_folder())]

    def applied(self) -> Sequence[Applied]:
        async def ask(migrations: Migrations) -> Sequence[Applied]:
            own = {script.number: script.checksum for script in read_scripts(scripts_folder())}
            return [
                Applied(
                    number=each.number,
                    name=each.name,
                    checksum=each.checksum,
                    applied_at=each.applied_at,
                    microseconds=each.microseconds,
                    edited=own.get(each.number, each.checksum) != each.checksum,
                )
                for each in await migrations.current()
            ]

        return self._run(ask)

    def verify(self) -> None:
        async def check(migrations: Migrations) -> None:
            await migrations.check()

        self._run(check)

    def plan(self, to: int | None) -> Sequence[Planned]:
        async def ask(migrations: Migrations) -> Sequence[Planned]:
            return [
                Planned(
                    migration=Migration(number=script.number, name=script.name),
                    direction="up",
                    statements=script.statements,
                )
                for script in await migrations.check()
                if to is None or script.number <= to
            ]

        return self._run(ask)

    def upgrade(self, to: int | None) -> Sequence[Migration]:
        async def apply(migrations: Migrations) -> Sequence[Migration]:
            return [Migration(number=script.number, name=script.name) for script in await migrations.upgrade()]

        return self._run(apply)

    def downgrade(self, to: int) -> Sequence[Migration]:
        raise UsageError(f"{self.shown} has no way down to {to:02}")

    def stamp(self, number: int) -> None:
        raise UsageError(f"{self.shown} cannot be stamped {number:02}")

    def advice(self) -> Sequence[str]:
        return ()

    def _run(self, ask: Callable[[Migrations], Awaitable[Answer]]) -> Answer:
        async def opened() -> Answer:
            async with open_migrations(
                self._settings.database_url, lock_seconds=self._settings.lock_seconds
            ) as migrations:
                return await ask(migrations)

        return asyncio.run(opened())
