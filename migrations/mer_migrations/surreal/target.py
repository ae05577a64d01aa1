"""A SurrealDB as the migrations program sees it; the runner is the driver's, since `mem://` can be migrated by nobody else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from mer.core.errors import ConfigurationError
from mer.dal.surreal.address import is_server, parse_address, parse_server_address
from mer.dal.surreal.login import Login, Role
from mer.dal.surreal.migrations import Migrations, open_migrations
from mer.dal.surreal.scripts import Script, read_scripts, scripts_folder
from mer.settings import Settings
from mer_migrations.target import Applied, Migration, Planned, not_made

Answer = TypeVar("Answer")


class SurrealTarget:
    """A SurrealDB of a server or of a folder. On a server, `upgrade` makes the driver's and the auditor's login too."""

    def __init__(self, settings: Settings, *, folder: Path | None = None) -> None:
        self._settings = settings
        self._folder = folder or scripts_folder()
        self._server = is_server(settings.database_url)

    @property
    def shown(self) -> str:
        url = self._settings.database_url
        return parse_server_address(url).name if self._server else parse_address(url).name

    @property
    def made(self) -> bool:
        folder = None if self._server else parse_address(self._settings.database_url).folder
        return folder is None or os.path.lexists(folder)

    def known(self) -> Sequence[Migration]:
        return [_migration(script) for script in read_scripts(self._folder)]

    def applied(self) -> Sequence[Applied]:
        if not self.made:
            return ()
        own = {script.number: (script.name, script.checksum) for script in read_scripts(self._folder)}

        async def ask(migrations: Migrations) -> Sequence[Applied]:
            return [
                Applied(
                    number=each.number,
                    name=each.name,
                    checksum=each.checksum,
                    applied_at=each.applied_at,
                    microseconds=each.microseconds,
                    edited=each.number in own and own[each.number] != (each.name, each.checksum),
                )
                for each in await migrations.current()
            ]

        return self._run(ask)

    def verify(self) -> None:
        async def check(migrations: Migrations) -> None:
            await migrations.verify()

        if self.made:
            self._run(check)
        else:
            self.known()

    def plan(self, to: int | None) -> Sequence[Planned]:
        if not self.made:
            raise not_made(self.shown)

        async def ask(migrations: Migrations) -> Sequence[Planned]:
            return [
                Planned(
                    migration=_migration(script),
                    direction=direction,
                    statements=tuple(f"{each};" for each in script.statements),
                )
                for script, direction in await migrations.plan(to)
            ]

        return self._run(ask)

    def upgrade(self, to: int | None) -> Sequence[Migration]:
        logins = self._logins()

        async def apply(migrations: Migrations) -> Sequence[Migration]:
            done = await migrations.upgrade(to)
            await migrations.ensure_logins(*logins)
            return [_migration(script) for script in done]

        return self._run(apply)

    def downgrade(self, to: int) -> Sequence[Migration]:
        async def take_back(migrations: Migrations) -> Sequence[Migration]:
            return [_migration(script) for script in await migrations.downgrade(to)]

        return self._run(take_back)

    def stamp(self, number: int) -> None:
        async def put_on_record(migrations: Migrations) -> None:
            await migrations.stamp(number)

        self._run(put_on_record)

    def advice(self) -> Sequence[str]:
        return ()

    def _logins(self) -> Sequence[Login]:
        """Return who shall be able to log in to a server; nobody logs in to a folder."""
        if not self._server:
            return ()
        given = self._settings
        if not given.driver_username or not given.driver_password:
            raise ConfigurationError(
                "nothing says whom mer logs in as",
                hint="Give DRIVER_DB_USERNAME and DRIVER_DB_PASSWORD; mer-migrate itself logs in with"
                " MIGRATIONS_DB_USERNAME and MIGRATIONS_DB_PASSWORD.",
            )
        logins = [Login(role=Role.DRIVER, name=given.driver_username, password=given.driver_password)]
        if given.auditor_username:
            if not given.auditor_password:
                raise ConfigurationError("the auditor has a name and no password", hint="Give AUDITOR_DB_PASSWORD.")
            logins.append(Login(role=Role.AUDITOR, name=given.auditor_username, password=given.auditor_password))
        return logins

    def _run(self, ask: Callable[[Migrations], Awaitable[Answer]]) -> Answer:
        given = self._settings
        owner = Login(role=Role.OWNER, name=given.migrations_username, password=given.migrations_password)

        async def opened() -> Answer:
            async with open_migrations(
                given.database_url, login=owner, lock_seconds=given.lock_seconds, folder=self._folder
            ) as migrations:
                return await ask(migrations)

        return asyncio.run(opened())


def _migration(script: Script) -> Migration:
    return Migration(number=script.number, name=script.name)
