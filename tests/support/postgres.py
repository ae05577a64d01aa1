"""One embedded PostgreSQL for a whole test session, and an empty, migrated database of it for each test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from mer.core.identifiers import uuid7
from mer.dal.postgres.cluster import AUDITOR, DRIVER, OWNER
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer_migrations.postgres.roles import Role, Roles
from mer_migrations.postgres.runner import Migrations
from tests.support import compiled
from tests.support.shared_memory import remove_left_behind

ROLES = Roles(driver=Role(name=DRIVER), auditor=Role(name=AUDITOR))

TEMPLATE = "mer"
"""Migrated once, never written to."""

WIPED = "wiped"
"""A copy of it that is emptied for each test."""

TABLES = (
    "access",
    "open_invocation",
    "filling",
    "lease",
    "placement",
    "alias_move",
    "retirement",
    "version",
    "model",
    "server",
    "weights_version",
    "weights",
)


@contextmanager
def state_folder() -> Iterator[Path]:
    """Give a short folder for a test's state, and remove it with what runs in it.

    pytest's own folders are too long for a socket, and closed to the user that root's server runs as.
    """
    folder = Path(tempfile.mkdtemp(prefix="mer-test-"))
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    compiled.put_into(folder / "cache")
    try:
        yield folder
    finally:
        EmbeddedPostgres(folder).stop()
        remove_left_behind(folder / "postgres" / "data")
        shutil.rmtree(folder)


class PostgresServer:
    """A running embedded server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        embedded = EmbeddedPostgres(folder)
        embedded.ensure_running()
        Migrations(embedded.owner(), ROLES).upgrade()
        self.execute("ALTER SYSTEM SET fsync = off")  # tests of what a crash leaves behind start servers of their own
        self.execute("SELECT pg_reload_conf()")
        self._copy(WIPED)

    def database(self, name: str) -> EmbeddedPostgres:
        """Return the server as if that database were its own."""
        return EmbeddedPostgres(self.folder, database=name)

    def execute(self, statement: str) -> None:
        """Run a statement as superuser, beside the databases of the tests."""
        with psycopg.connect(conninfo(self.database("postgres").superuser()), autocommit=True) as connection:
            connection.execute(statement)

    @contextmanager
    def copy(self) -> Iterator[EmbeddedPostgres]:
        """Give a migrated database of its own, dropped at the end; half a second, where `wiped` takes hundredths."""
        name = f"test_{uuid7().replace('-', '')}"
        self._copy(name)
        try:
            yield self.database(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def wiped(self) -> EmbeddedPostgres:
        """Give the session's one migrated database, emptied as only its machine's owner could."""
        embedded = self.database(WIPED)
        with psycopg.connect(conninfo(embedded.superuser()), autocommit=True) as connection:
            wipe(connection)
        return embedded

    def _copy(self, name: str) -> None:
        self.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        self.execute(f"ALTER DATABASE {name} OWNER TO {OWNER}")  # a copy has none of the rights on the database itself
        self.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
        self.execute(f"GRANT CONNECT ON DATABASE {name} TO {DRIVER}, {AUDITOR}")


def wipe(connection: psycopg.Connection) -> None:
    """Empty a migrated database, as only a superuser could, and end whatever a test left connected to it."""
    connection.execute("SET session_replication_role = replica")
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND usename <> current_user"
    )
    with connection.transaction():
        for table in TABLES:
            connection.execute(f"DELETE FROM mer.{table}")
        connection.execute("UPDATE mer.chain SET id = gen_random_uuid()")


def tampering(database: EmbeddedPostgres) -> psycopg.Connection:
    """Log in as the owner of the machine could, with every trigger off."""
    login: ConnectionSettings = database.superuser()
    connection = psycopg.connect(conninfo(login), autocommit=True)
    connection.execute("SET session_replication_role = replica")
    return connection
