"""Applies the numbered scripts, each once, and keeps the table that says which were applied.

It lives here and not in mer_migrations, because `mem://` is one process's own: nobody else could migrate it.

A script runs in one transaction with its row in `migrations`: it is there whole or not at all. Of two that apply a
script at once, the second fails on that row, looks again and finds it applied.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from mer.core.errors import (
    ConcurrentChange,
    ConfigurationError,
    DatabaseUnreachable,
    MerError,
    MigrationFailed,
    NotMigrated,
    UsageError,
)
from mer.dal.surreal.answers import MAX_MESSAGE, Refused, failure
from mer.dal.surreal.connecting import connect_to
from mer.dal.surreal.connection import Connection
from mer.dal.surreal.embedded import EmbeddedConnection
from mer.dal.surreal.executor import Direct
from mer.dal.surreal.login import Login
from mer.dal.surreal.queries import load
from mer.dal.surreal.rows import from_row
from mer.dal.surreal.scripts import Script, defined_by, read_scripts, scripts_folder

MIGRATION_SECONDS = 600.0
"""Deadline of one script: a later one may rewrite a long table."""

MAX_STATEMENT = 300
"""Characters of a failed statement in a message."""


Direction: TypeAlias = Literal["up", "down"]

_END: dict[Direction, str] = {"up": "end", "down": "took_back"}
"""The query that keeps the books of a script, in its transaction."""

BEFORE_00 = -1
"""Where a downgrade ends that leaves nothing."""


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """A script that was applied."""

    number: int
    name: str
    checksum: str
    applied_at: dt.datetime
    microseconds: int | None = None
    """How long it took; None where it was stamped."""


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
        scripts = self._scripts()
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
                    hint="Put it back as it was, and the change into a migration of its own."
                    f" An edit that was meant: mer-migrate stamp {applied[-1].number:02}",
                )
        return scripts[len(applied) :]

    async def verify(self) -> tuple[Script, ...]:
        """Do as `check`, and tell a database that is empty from one that is somebody else's.

        Raises:
            as `check`; ConfigurationError: the database is somebody else's.
        """
        if not await self.current():
            await self._refuse_foreign()
        return await self.check()

    async def plan(self, to: int | None) -> tuple[tuple[Script, Direction], ...]:
        """Return the scripts that would run to get to a number, in order: None is the newest, BEFORE_00 nothing left.

        Raises:
            as `check`; UsageError: there is no such number, or no way down.
        """
        pending = await self.verify()
        scripts = self._scripts()
        at = len(scripts) - len(pending) - 1
        to = scripts[-1].number if to is None else to
        if not BEFORE_00 <= to <= scripts[-1].number:
            raise UsageError(f"there is no migration {to:02}", hint=f"the newest is {scripts[-1].number:02}")
        downwards = []
        for script in reversed(scripts[to + 1 : at + 1]):
            if script.down is None:
                raise UsageError(f"{script.path} cannot be taken back: nobody has written how")
            downwards.append(script.down)
        return tuple((script, "up") for script in scripts[at + 1 : to + 1]) + tuple(
            (script, "down") for script in downwards
        )

    async def upgrade(self, to: int | None = None) -> tuple[Script, ...]:
        """Apply what is still to be applied up to a number, in order, and return it.

        Raises:
            MigrationFailed: with the file, the statement and the database's own message.
            ConfigurationError: as `check` does, or the database is somebody else's.
            UsageError: there is no such number, or it is behind the database.
        """
        return await self._go(to, "up")

    async def downgrade(self, to: int) -> tuple[Script, ...]:
        """Take back what is above a number (BEFORE_00: everything), the last first, and return it.

        Raises:
            as `upgrade`, for a number that is ahead of the database.
        """
        return await self._go(to, "down")

    async def stamp(self, number: int) -> None:
        """Put on record that the scripts up to a number (BEFORE_00: none) were applied, and no others; none is run.

        Raises:
            UsageError: there is no such number.
            ConfigurationError: the schema is not there that would be on record.
        """
        scripts = self._scripts()
        if not BEFORE_00 <= number <= scripts[-1].number:
            raise UsageError(f"there is no migration {number:02}", hint=f"the newest is {scripts[-1].number:02}")
        rows = [{"number": each.number, "name": each.name, "checksum": each.checksum} for each in scripts[: number + 1]]
        begin, stamp = self._queries["begin"], self._queries["stamp" if rows else "took_all_back"]
        async with self._connection.in_use(), self._connection.changing():
            await self._check_there(scripts[: number + 1])
            statements = await self._connection.run(f"BEGIN; {begin.text} {stamp.text} COMMIT;", {"scripts": rows})
        failed = failure(statements)
        if failed:
            raise failed.error()

    async def _check_there(self, scripts: Sequence[Script]) -> None:
        """Make sure that what these scripts define is there. Raises: ConfigurationError."""
        found = await self._run.ask(self._queries["tables"])
        for script in scripts:
            missing = sorted(
                f"{kind} {name}" for kind, name in defined_by(script) if name not in (found.get(f"{kind}s") or {})
            )
            if missing:
                raise ConfigurationError(
                    f"{self._connection.name} has not got what {script.number:02} {script.name} makes:"
                    f" {', '.join(missing)[:MAX_STATEMENT]}",
                    hint="Nothing was put on record. `mer-migrate upgrade` makes what is missing in an empty database.",
                )

    async def ensure_logins(self, *logins: Login) -> None:
        """Let these log in, with these passwords, as what their roles are; the database has to be migrated."""
        for login in logins:
            await self._run.ask(self._queries["login"], role=login.role.value, name=login.name, password=login.password)

    async def _go(self, to: int | None, direction: Direction) -> tuple[Script, ...]:
        done: list[Script] = []
        async with self._connection.in_use(), self._connection.changing():
            while planned := await self.plan(to):
                script, towards = planned[0]
                if towards != direction:
                    if done:
                        break  # somebody else moves it the other way
                    where = "behind" if direction == "up" else "ahead of"
                    raise UsageError(f"{to:02} is {where} {self._connection.name}")
                if await self._run_whole(script, direction):
                    done.append(script)
        return tuple(done)

    def _scripts(self) -> tuple[Script, ...]:
        return read_scripts(self._folder or scripts_folder())

    async def _refuse_foreign(self) -> None:
        found = await self._run.ask(self._queries["tables"])
        tables = sorted(found.get("tables") or {})
        if tables:
            raise ConfigurationError(
                f"{self._connection.name} holds somebody else's tables ({', '.join(tables)[:MAX_STATEMENT]})",
                hint="Give an empty folder, or a database of its own."
                " If the schema is MER's and was made by other means: mer-migrate stamp NN",
            )

    async def _run_whole(self, script: Script, direction: Direction) -> bool:
        """Run one script with its bookkeeping; False where somebody else has done it at the same moment."""
        begin = self._queries["begin"]
        end = self._queries[_END[direction] if direction == "up" or script.number else "took_all_back"]
        before = begin.text.count(";") + 1  # BEGIN itself is a statement too
        # all before the source stands on its first line, so that the engine's line numbers are those of the file
        prelude = " ".join(["BEGIN;", *begin.text.splitlines()])
        parameters = {"mer_number": script.number, "mer_name": script.name, "mer_checksum": script.checksum}
        try:
            statements = await self._connection.run(f"{prelude} {script.source}\n;\n{end.text}\nCOMMIT;", parameters)
        except DatabaseUnreachable as error:
            # an answer that is lost on the way from a server says nothing
            if self._connection.shared and await self._happened(script, direction):
                return True
            raise DatabaseUnreachable(
                f"{script.path} had not happened when it was looked for again: {error.message}"
            ) from error
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
        if await self._happened(script, direction):
            return False
        where = ""
        if 0 <= number < len(script.statements):
            statement = " ".join(script.statements[number].split())
            where = f", statement {number + 1} ({statement[:MAX_STATEMENT]})"
        raise MigrationFailed(f"{script.path}{where}: {failed.message[:MAX_MESSAGE]}") from error_of

    async def _happened(self, script: Script, direction: Direction) -> bool:
        there = script.number in [each.number for each in await self.current()]
        return there == (direction == "up")


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
