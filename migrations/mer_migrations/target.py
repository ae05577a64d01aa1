"""What the migrations program asks of a database: one face for PostgreSQL and SurrealDB, where the same number means the
same schema.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from mer.core.errors import NotMigrated

BEFORE_00 = -1
"""Where a downgrade ends that takes everything away."""


@dataclass(frozen=True, kw_only=True)
class Migration:
    """One numbered migration."""

    number: int
    name: str

    def __str__(self) -> str:
        return f"{self.number:02} {self.name}"


@dataclass(frozen=True, kw_only=True)
class Applied:
    """One migration as the database has it on record."""

    number: int
    name: str
    checksum: str
    """The sha256 of the bytes of its scripts when it was applied, in hex."""
    applied_at: dt.datetime
    microseconds: int | None
    """How long it took; None where it was stamped, not run."""
    edited: bool
    """Whether the scripts of this program differ from those that were applied; of one that it does not know, False."""

    def __str__(self) -> str:
        return f"{self.number:02} {self.name}"


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One migration that would run, and what it would run."""

    migration: Migration
    direction: Literal["up", "down"]
    statements: tuple[str, ...]


class Target(Protocol):
    """One database. Everything here blocks.

    Raises, each of them:
        DatabaseUnreachable, AuthenticationFailed, DatabaseLocked (another program migrates, and which one).
    """

    @property
    def shown(self) -> str:
        """The database for people, without secrets."""

    @property
    def made(self) -> bool:
        """Whether there is a database. Where there is none yet, `applied`, `verify` and `plan` make none."""

    def known(self) -> Sequence[Migration]:
        """Return the migrations that this program has, by number. Raises: ConfigurationError (a gap, a bad name)."""

    def applied(self) -> Sequence[Applied]:
        """Return what the database has on record, by number; nothing where it was never migrated."""

    def verify(self) -> None:
        """Compare the two, and change nothing; a database that is only behind is in order.

        Raises:
            ConfigurationError: a script was edited after it was applied, a number is missing, a file's name is bad, or
                the database is somebody else's.
            NotMigrated: the database is newer than this program.
        """

    def plan(self, to: int | None) -> Sequence[Planned]:
        """Return what would run to get to that number (None: the newest, BEFORE_00: nothing left), up or down; run none.

        Raises: as `verify`; NotMigrated (there is no database); UsageError (there is no such number, or no way down).
        """

    def upgrade(self, to: int | None) -> Sequence[Migration]:
        """Apply what is missing up to that number (None: all), each whole or not at all, and return what was applied.

        Raises: as `verify`; UsageError (there is no such number, or it is behind the database); ConfigurationError (a
            statement failed: its file, the statement and the database's own message).
        """

    def downgrade(self, to: int) -> Sequence[Migration]:
        """Take back what is above that number (BEFORE_00: everything), the last one first, and return what was taken back.

        Raises: as `upgrade`, for a number that is ahead of the database.
        """

    def stamp(self, number: int) -> None:
        """Put on record that everything up to that number was applied and nothing else, and run nothing.

        For a schema that was made by other means, and for scripts whose edit is meant. Raises: UsageError.
        """

    def advice(self) -> Sequence[str]:
        """Return what an administrator should still do, a sentence or statement each, where this login may not."""


def current(database: Target) -> int | None:
    """Return the number of the last migration that was applied; None where there was none."""
    return max((each.number for each in database.applied()), default=None)


def missing(database: Target) -> tuple[Migration, ...]:
    """Return the migrations that the database lacks. Raises: as Target.verify."""
    database.verify()
    known, number = database.known(), current(database)
    return tuple(migration for migration in known if number is None or migration.number > number)


def not_made(shown: str) -> NotMigrated:
    """Return the error for who would look into a database that was not made yet."""
    return NotMigrated(f"{shown} is not there yet", hint="`mer-migrate upgrade` makes it, and `mer` where it needs it.")
