"""Runs the migrations of a PostgreSQL database: each whole or not at all, with its bookkeeping and its rights.

Alembic finds and calls a script and keeps its version table; the transaction, the lock that lets two programs run each
migration once, the record of what was applied and the rights of the roles are ours.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from mer.core.errors import ConfigurationError, DatabaseUnreachable, MigrationFailed, UsageError
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer_migrations.postgres import bookkeeping, rights, roles
from mer_migrations.postgres.connect import LOCK_SECONDS, Connection, connected
from mer_migrations.postgres.lock import migrating
from mer_migrations.postgres.roles import Roles
from mer_migrations.postgres.scripts import VERSIONS, Script, Statement, read_scripts
from mer_migrations.target import BEFORE_00

if TYPE_CHECKING:
    from mer_migrations.postgres.revisions import Direction, Revisions

MAX_STATEMENT = 300
"""Characters of a failed statement in a message."""


def applied(login: ConnectionSettings) -> tuple[bookkeeping.Noted, ...]:
    """Return what was applied to a database, by number; it takes no roles to ask.

    Raises:
        ConfigurationError: the schema is somebody else's. DatabaseUnreachable, AuthenticationFailed.
    """
    with connected(login) as connection:
        return bookkeeping.noted(connection, login.shown)


class Migrations:
    """The migrations of a folder on one database, under its owner's login.

    Each method raises DatabaseUnreachable and AuthenticationFailed; those that change something, DatabaseLocked.
    """

    def __init__(
        self,
        login: ConnectionSettings,
        named: Roles,
        *,
        versions: Path = VERSIONS,
        lock_seconds: float = LOCK_SECONDS,
    ) -> None:
        self._login = login
        self._roles = named
        self._versions = versions
        self._lock_seconds = lock_seconds

    def scripts(self) -> tuple[Script, ...]:
        """Return the migrations of the folder. Raises: ConfigurationError."""
        return read_scripts(self._versions)

    def verify(self) -> None:
        """Compare what was applied with the folder. Raises: ConfigurationError, NotMigrated."""
        scripts = self.scripts()
        with connected(self._login) as connection:
            self._verified(connection, scripts)

    def plan(self, to: int | None) -> list[tuple[Script, Direction, tuple[Statement, ...]]]:
        """Return what would run, in its order, to get to that number: upwards and its rights, or downwards.

        Not among it is the row that notes a migration, which holds when it ran.

        Raises: as `verify`, and as `upgrade` or `downgrade` of the target would.
        """
        scripts = self.scripts()
        with connected(self._login) as connection:
            done = self._verified(connection, scripts)
            number = _target(scripts, to)
            if number < done - 1:
                return [(script, "down", _way_down(script)) for script in reversed(scripts[number + 1 : done])]
            making = [
                Statement(file="bookkeeping", number=place, text=text)
                for place, text in enumerate(bookkeeping.missing_tables(connection), 1)
            ]
            planned: list[tuple[Script, Direction, tuple[Statement, ...]]] = []
            for script in scripts[done : number + 1]:
                granted = rights.statements(scripts[: script.number + 1], self._roles)
                planned.append((script, "up", (*making, *script.up, *granted)))
                making = []
            return planned

    def upgrade(self, to: int | None = None) -> tuple[Script, ...]:
        """Apply what is missing up to that number, and grant the roles' rights anew; return what was applied.

        Raises: as `verify`; MigrationFailed; ConfigurationError: a role is missing; UsageError: the number is unknown, or
            behind the database.
        """
        scripts = self.scripts()
        with self._changing() as connection:
            done = self._verified(connection, scripts)
            number = _target(scripts, to)
            if number < done - 1:
                raise UsageError(
                    f"{self._login.shown} has schema {done - 1:02} already",
                    hint=f"Run: mer-migrate downgrade --to {number:02}",
                )
            roles.ensure(connection, self._roles)
            missing = scripts[done : number + 1]
            if missing:
                with _revisions(self._versions, connection) as revisions:
                    for script in missing:
                        self._up(connection, revisions, script, scripts[: script.number])
            elif done:
                with connection.transaction():
                    self._execute(connection, rights.statements(scripts[:done], self._roles))
            return missing

    def downgrade(self, to: int) -> tuple[Script, ...]:
        """Take back what is above that number, the last one first; with -1 everything. Return what was taken back.

        Raises: as `verify`; MigrationFailed; UsageError: the number is unknown, or one has no way down.
        """
        scripts = self.scripts()
        with self._changing() as connection:
            done = self._verified(connection, scripts)
            number = _target(scripts, to)
            if number >= done:
                raise UsageError(f"{self._login.shown} is not at {number:02} yet", hint="Run: mer-migrate upgrade")
            back = tuple(reversed(scripts[number + 1 : done]))
            for script in back:
                _way_down(script)  # none is taken back where one cannot be
            with _revisions(self._versions, connection) as revisions:
                for script in back:
                    self._down(connection, revisions, script, scripts[: script.number])
            return back

    def stamp(self, number: int) -> None:
        """Put on record that everything up to that number was applied, and run nothing.

        Raises: UsageError: the number is unknown. ConfigurationError: mer.migration is somebody else's, or the schema is not
        there that would be on record.
        """
        scripts = self.scripts()
        last = _target(scripts, number)
        with self._changing() as connection, connection.transaction():
            bookkeeping.make(connection, self._login.shown)
            bookkeeping.check_own(connection, self._login.shown)
            if last > BEFORE_00:
                self._check_there(connection, scripts[: last + 1])
            bookkeeping.stamp(connection, scripts[: last + 1])

    def _check_there(self, connection: Connection, scripts: Sequence[Script]) -> None:
        """Make sure that what these scripts make is there: all that rights are given on. Raises: ConfigurationError."""
        owner = rights.quoted(connection.info.user)
        names = dict.fromkeys(self._roles.by_purpose, owner)
        granted = [each.for_roles(names) for script in scripts for name in names for each in script.rights[name]]
        try:
            with connection.transaction(
                force_rollback=True
            ):  # he has these rights: to give them only tells what is there
                self._execute(connection, granted)
        except MigrationFailed as error:
            raise ConfigurationError(
                f"{self._login.shown} has not got what {scripts[-1]} makes: {error.__cause__}",
                hint="Nothing was put on record. `mer-migrate upgrade` makes what is missing in an empty database.",
            ) from error

    def advice(self) -> list[str]:
        """Return what an administrator should still do, because this login may not."""
        with connected(self._login) as connection:
            return roles.advice(connection, self._roles)

    def _verified(self, connection: Connection, scripts: Sequence[Script]) -> int:
        """Return how many of the scripts were applied, and hold the database and its roles to them."""
        roles.refuse_stronger(connection, self._roles)
        found = bookkeeping.noted(connection, self._login.shown)
        bookkeeping.compare(found, scripts, self._login.shown)
        return len(found)

    @contextmanager
    def _changing(self) -> Iterator[Connection]:
        with (
            connected(self._login) as connection,
            migrating(connection, self._login.shown, seconds=self._lock_seconds),
        ):
            yield connection

    def _up(self, connection: Connection, revisions: Revisions, script: Script, before: Sequence[Script]) -> None:
        began = time.monotonic()
        with revisions.transaction():
            bookkeeping.make(connection, self._login.shown)
            revisions.call(script, "up", lambda: self._execute(connection, script.up))
            self._execute(connection, rights.statements([*before, script], self._roles))
            bookkeeping.note(connection, script, round((time.monotonic() - began) * 1e6))

    def _down(self, connection: Connection, revisions: Revisions, script: Script, before: Sequence[Script]) -> None:
        with revisions.transaction():
            revisions.call(script, "down", lambda: self._execute(connection, script.down))
            if before:
                self._execute(connection, rights.statements(before, self._roles))
            bookkeeping.forget(connection, script)

    def _execute(self, connection: Connection, statements: Iterable[Statement]) -> None:
        for statement in statements:
            try:
                # binary: not for a result, but because PostgreSQL then takes one statement and no second behind it
                connection.execute(statement.text.encode(), binary=True)
            except psycopg.Error as error:
                if connection.closed:
                    raise DatabaseUnreachable(
                        f"{self._login.shown} went away at {statement.file}, statement {statement.number}:"
                        " this migration has not happened"
                    ) from error
                shown = " ".join(statement.text.split())[:MAX_STATEMENT]
                raise MigrationFailed(
                    f"{statement.file}, statement {statement.number} ({shown}) failed on {self._login.shown}:"
                    f" {str(error).strip()}",
                    hint="The database is as it was before this migration.",
                ) from error


@contextmanager
def _revisions(versions: Path, connection: Connection) -> Iterator[Revisions]:
    from mer_migrations.postgres.revisions import Revisions  # Alembic: 300 ms, for those alone who migrate

    connection.autocommit = False
    try:
        yield Revisions(versions, connection)
    finally:
        if not connection.closed:
            connection.autocommit = True


def _target(scripts: Sequence[Script], to: int | None) -> int:
    if to is None:
        return scripts[-1].number
    if not BEFORE_00 <= to <= scripts[-1].number:
        raise UsageError(f"there is no migration {to:02}", hint=f"The newest is {scripts[-1]}.")
    return to


def _way_down(script: Script) -> tuple[Statement, ...]:
    if not script.down:
        raise UsageError(f"{script} has no way down")
    return script.down
