"""Applies the numbered scripts, each once, and keeps the table that says which were applied.

It lives here and not in mer_migrations, because `mem://` is one process's own: nobody else could migrate it.

A script runs in one transaction with its row in `migrations`: it is there whole or not at all. Of two that apply a
script at once, the second fails on that row, looks again and finds it applied.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from mer.core.errors import ConcurrentChange, ConfigurationError, MerError, NotMigrated
from mer.dal.surreal.answers import MAX_MESSAGE, Refused, failure
from mer.dal.surreal.connecting import connect_to
from mer.dal.surreal.connection import Connection
from mer.dal.surreal.embedded import EmbeddedConnection
from mer.dal.surreal.executor import Direct
from mer.dal.surreal.login import Login
from mer.dal.surreal.queries import load
from mer.dal.surreal.rows import from_row
from mer.dal.surreal.scripts import Script, read_scripts, scripts_folder

MIGRATION_SECONDS = 600.0
"""Deadline of one script: a later one may rewrite a long table."""

MAX_STATEMENT = 300
"""Characters of a failed statement in a message."""


class MigrationFailed(ConfigurationError):
    """A migration failed, and the database is as it was before it."""


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """A script that was applied."""

    number: int
    name: str
    checksum: str
    applied_at: dt.datetime
    microseconds: int
    """How long it took."""


class Migrations:
    """The scripts of a folder (mer_migrations' own by default) on one database."""

    def __init__(self, connection: Connection, *, folder: Path | None = None) -> None:
        self._connection = connection
        self._folder = folder
        self._run = Direct(connection)
        self._queries = load("migrations")

    async def current(self) -> tuple[Applied, ...]:
        """Return the scripts that were applied, by number; none in a database that was never migrated."""
        try:
            rows = await self._run.ask(self._queries["applied"])
        except NotMigrated:
            return ()
        return tuple(from_row(Applied, row) for row in rows)

    async def check(self) -> tuple[Script, ...]:
        """Compare the scripts with what was applied, and return those that are still to be applied.

        Raises:
            ConfigurationError: a script was edited or renamed after it was applied, one is missing, or a file is bad.
            NotMigrated: the database is newer than this program.
        """
        scripts = read_scripts(self._folder or scripts_folder())
        applied = await self.current()
        for number, row in enumerate(applied):
            if row.number != number:
                raise ConfigurationError(f"migration {number:02} was never applied, though {row.number:02} was")
            if number >= len(scripts):
                raise NotMigrated(
                    f"the database has migration {row.number:02}-{row.name}, which this program does not know",
                    hint="install the program that made it, or a newer one",
                )
            script = scripts[number]
            if (script.checksum, script.name) != (row.checksum, row.name):
                raise ConfigurationError(
                    f"{script.path} was edited after it was applied as {row.number:02}-{row.name}"
                    f" at {row.applied_at:%Y-%m-%d %H:%M:%S}",
                    hint="restore it, and put the change into a new script",
                )
        return scripts[len(applied) :]

    async def upgrade(self, *, tell: Callable[[Script], None] | None = None) -> tuple[Script, ...]:
        """Apply what is still to be applied, in order, and return it; `tell` hears of each script before it runs.

        Raises:
            MigrationFailed: with the file, the statement and the database's own message.
            ConfigurationError: as `check` does, or the database is somebody else's.
        """
        done: list[Script] = []
        async with self._connection.in_use(), self._connection.changing():
            pending = await self.check()
            if pending and pending[0].number == 0:
                await self._refuse_foreign()
            while pending:
                if tell:
                    tell(pending[0])
                if await self._apply(pending[0]):
                    done.append(pending[0])
                pending = await self.check()
        return tuple(done)

    async def ensure_logins(self, *logins: Login) -> None:
        """Let these log in, with these passwords, as what their roles are; the database has to be migrated."""
        for login in logins:
            await self._run.ask(self._queries["login"], role=login.role.value, name=login.name, password=login.password)

    async def _refuse_foreign(self) -> None:
        found = await self._run.ask(self._queries["tables"])
        tables = sorted(found.get("tables") or {})
        if tables:
            raise ConfigurationError(
                f"{self._connection.name} holds somebody else's tables ({', '.join(tables)[:MAX_STATEMENT]})",
                hint="give an empty folder",
            )

    async def _apply(self, script: Script) -> bool:
        """Apply one script; False where somebody else has done it at the same moment."""
        begin, end = self._queries["begin"], self._queries["end"]
        before = begin.text.count(";") + 1  # BEGIN itself is a statement too
        # all before the source stands on its first line, so that the engine's line numbers are those of the file
        prelude = " ".join(["BEGIN;", *begin.text.splitlines()])
        parameters = {"mer_number": script.number, "mer_name": script.name, "mer_checksum": script.checksum}
        try:
            statements = await self._connection.run(f"{prelude} {script.source}\n;\n{end.text}\nCOMMIT;", parameters)
        except MerError as error:
            if type(error) is MerError:  # the engine could not read it, and says where
                raise MigrationFailed(f"{script.path}: {error.message}") from error
            raise
        failed = failure(statements)
        if failed is None:
            return True
        error_of = failed.error()
        number = failed.statement - before
        if isinstance(error_of, ConcurrentChange) or (
            isinstance(error_of, Refused) and number == len(script.statements)
        ):
            return False
        where = ""
        if 0 <= number < len(script.statements):
            statement = " ".join(script.statements[number].split())
            where = f", statement {number + 1} ({statement[:MAX_STATEMENT]})"
        raise MigrationFailed(f"{script.path}{where}: {failed.message[:MAX_MESSAGE]}") from error_of


@asynccontextmanager
async def open_migrations(
    url: str, *, lock_seconds: float, login: Login | None = None, folder: Path | None = None
) -> AsyncIterator[Migrations]:
    """Give the migrations of the database at a URL, and close it afterwards: for a program that does nothing else.

    Raises:
        ConfigurationError: the URL is no SurrealDB's, or `mem://`, which ends with the process that migrates it.
    """
    connection = connect_to(
        url, login=login, statement_seconds=MIGRATION_SECONDS, lock_seconds=lock_seconds, idle_seconds=MIGRATION_SECONDS
    )
    if isinstance(connection, EmbeddedConnection) and connection.address.folder is None:
        raise ConfigurationError("mem:// is each process's own, and migrates itself")
    try:
        yield Migrations(connection, folder=folder)
    finally:
        await connection.close()
