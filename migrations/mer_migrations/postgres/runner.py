"""Runs the migrations of a PostgreSQL database: Alembic without its files and command line.

Alembic gives the order, a transaction for each migration, and the version table; the lock that lets two programs run
each migration once is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psycopg

from mer.core.errors import ConfigurationError, DatabaseUnreachable
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer_migrations.postgres.connect import Connection, connected

FOLDER = Path(__file__).parent

VERSION_SCHEMA = "mer"
VERSION_TABLE = "migration"

LOCK = 0x6D65725F6D696772
"""Of pg_advisory_lock: "mer_migr". Who holds it migrates."""

MAX_STATEMENT = 300
"""Characters of a failed statement in a message."""


class MigrationFailed(ConfigurationError):
    """A migration failed, and the database is as it was before it."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """One migration that this program has."""

    number: int
    name: str


def scripts() -> tuple[Script, ...]:
    """Return the migrations of this program, by number: files `NN_name.py`."""
    found = sorted((FOLDER / "versions").glob("[0-9][0-9]_*.py"))
    return tuple(Script(number=int(file.stem[:2]), name=file.stem[3:]) for file in found)


def current(login: ConnectionSettings) -> int | None:
    """Return the number of the last migration that was applied; None where there was none.

    Raises:
        DatabaseUnreachable, AuthenticationFailed.
    """
    with connected(login) as connection:
        return _current(connection)


def upgrade(login: ConnectionSettings, *, driver: str) -> tuple[Script, ...]:
    """Apply what is missing, each migration in a transaction with its bookkeeping, and return what was applied.

    `driver` is the role that `mer` logs in as; it must exist. Two at once apply each migration once.

    Raises:
        MigrationFailed: a statement failed; which one and the database's own words are in the message.
    """
    with connected(login) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))  # the connection's end gives it back
        before = _current(connection)
        missing = tuple(script for script in scripts() if before is None or script.number > before)
        if missing:
            connection.execute("CREATE SCHEMA IF NOT EXISTS mer")
            _apply(connection, login.shown, driver)
        return missing


def _current(connection: Connection) -> int | None:
    if connection.execute("SELECT to_regclass('mer.migration')").fetchone() == (None,):
        return None
    row = connection.execute("SELECT max(version_num)::int FROM mer.migration").fetchone()
    return row[0] if row else None


def _apply(connection: Connection, shown: str, driver: str) -> None:
    import sqlalchemy  # 300 ms, for those alone who migrate
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import StaticPool

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["driver"] = driver
    directory = ScriptDirectory.from_config(config)
    # this connection holds the lock, so the migrations run on it and on no other
    connection.autocommit = False
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: connection, poolclass=StaticPool)
    try:
        with (
            EnvironmentContext(
                config, directory, fn=lambda now, _: directory._upgrade_revs("head", now)
            ) as environment,
            engine.connect() as bound,
        ):
            environment.configure(
                connection=bound,
                version_table=VERSION_TABLE,
                version_table_schema=VERSION_SCHEMA,
                transaction_per_migration=True,
            )
            with environment.begin_transaction():
                environment.run_migrations()
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.OperationalError) and connection.closed:
            raise DatabaseUnreachable(
                f"{shown} went away in the middle of a migration, which has not happened"
            ) from error
        statement = " ".join((error.statement or "").split())[:MAX_STATEMENT]
        raise MigrationFailed(f"a migration of {shown} failed: {error.orig} The statement: {statement}") from error
    except CommandError as error:
        raise ConfigurationError(f"the migrations of {shown} cannot be run: {error}") from error
