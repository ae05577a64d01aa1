"""One migration by Alembic: it finds the script, calls it, and notes it in its version table, in the caller's transaction.

Without Alembic's own files and command line: which connection, which statements and what else stands in that transaction
is the runner's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import sqlalchemy
from alembic import op
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from mer.core.errors import ConfigurationError
from mer_migrations.postgres.bookkeeping import SCHEMA, VERSIONS_TABLE
from mer_migrations.postgres.connect import Connection
from mer_migrations.postgres.scripts import Script

Direction = Literal["up", "down"]


def run(**_: object) -> None:
    """Run the statements of the migration that is on its way; every script's `upgrade` and `downgrade`."""
    config = op.get_context().config
    assert config is not None
    config.attributes["statements"]()


class Revisions:
    """The scripts of a folder as Alembic knows them, run on a connection that is not in autocommit."""

    def __init__(self, folder: Path, connection: Connection) -> None:
        self._directory = ScriptDirectory(folder.parent, version_locations=[folder])
        # that connection holds the lock, so the migrations run on it and on no other
        self._engine = sqlalchemy.create_engine(
            "postgresql+psycopg://",
            creator=lambda: connection,
            poolclass=StaticPool,
            pool_reset_on_return=None,  # a transaction has ended before; a connection that broke needs no words about it
        )
        self._bound: sqlalchemy.Connection | None = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make one transaction of the block. Raises: psycopg.Error, which a commit can end with."""
        try:
            with self._engine.connect() as bound, bound.begin():
                self._bound = bound
                yield
        except DBAPIError as error:
            raise error.orig or error from error
        finally:
            self._bound = None

    def call(self, script: Script, direction: Direction, statements: Callable[[], None]) -> None:
        """Have Alembic call that script, which runs `statements`, and note it in its table, in a block of `transaction`.

        Raises:
            psycopg.Error, and what `statements` raises. ConfigurationError: Alembic would run something else.
        """
        config = Config()
        config.attributes["statements"] = statements
        try:
            with EnvironmentContext(config, self._directory, fn=self._step(script, direction)) as environment:
                environment.configure(connection=self._bound, version_table=VERSIONS_TABLE, version_table_schema=SCHEMA)
                environment.run_migrations()
        except (CommandError, RevisionError) as error:
            raise ConfigurationError(f"{script} cannot be run: {error}") from error

    def _step(self, script: Script, direction: Direction) -> Callable[..., Any]:
        def steps(now: str, _: MigrationContext) -> Any:
            if direction == "up":
                found = self._directory._upgrade_revs(script.revision, now)
            else:
                found = self._directory._downgrade_revs(f"{script.number - 1:02}" if script.number else "base", now)
            if len(found) != 1:
                raise ConfigurationError(f"Alembic would run {len(found)} migrations in place of {script}")
            return found

        return steps
