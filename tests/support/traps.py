"""A trap in a database: what changes the schema, or the bookkeeping of migrations, stops at its N-th statement.

Made by the superuser, as no migration can be stopped from outside at a place that is known.
"""

from __future__ import annotations

import time
from typing import Self

import psycopg

from mer.dal.postgres.embedded import EmbeddedPostgres
from tests.support.databases import superuser

PATIENCE = 60.0
"""Seconds that a session is given to end."""

KEY = 7
"""Of the advisory lock that a stopped statement waits for."""

MAKE = f"""
CREATE SCHEMA trap;
CREATE SEQUENCE trap.passed;
CREATE TABLE trap.set (place integer, how text);
CREATE FUNCTION trap.pass() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    found trap.set;
BEGIN
    SELECT * INTO found FROM trap.set WHERE place = nextval('trap.passed');
    CASE found.how
        WHEN 'wait' THEN PERFORM pg_advisory_xact_lock({KEY});
        WHEN 'lose' THEN PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(10);
        ELSE NULL;
    END CASE;
END $$;
CREATE FUNCTION trap.event() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.pass(); END $$;
CREATE FUNCTION trap.row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.pass(); RETURN NULL; END $$;
GRANT USAGE ON SCHEMA trap TO PUBLIC;
CREATE EVENT TRIGGER trap ON ddl_command_start EXECUTE FUNCTION trap.event();
"""

MAKE_ON_BOOKKEEPING = """
CREATE TRIGGER trap BEFORE INSERT OR UPDATE OR DELETE ON mer.{0} FOR EACH STATEMENT EXECUTE FUNCTION trap.row();
"""

MAKE_AT_COMMIT = """
CREATE CONSTRAINT TRIGGER trap_at_commit AFTER INSERT OR UPDATE OR DELETE ON mer.{0}
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION trap.row();
"""


class Trap:
    """A trap in one database, until the block is left; nothing is caught before `set`."""

    def __init__(self, database: EmbeddedPostgres, *, at_commit: bool = True) -> None:
        self._makes = MAKE_ON_BOOKKEEPING + (MAKE_AT_COMMIT if at_commit else "")
        self._connection: psycopg.Connection = superuser(database)

    def __enter__(self) -> Self:
        self._connection.execute(MAKE)
        for table in ("migration", "alembic_version"):
            if self._connection.execute(f"SELECT to_regclass('mer.{table}')").fetchone() != (None,):
                self._connection.execute("ALTER EVENT TRIGGER trap DISABLE")
                self._connection.execute(self._makes.format(table))
                self._connection.execute("ALTER EVENT TRIGGER trap ENABLE")
        self._connection.execute("SELECT pg_advisory_lock(%s)", (KEY,))
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.execute("SELECT pg_advisory_unlock_all()")
        self.take_away()
        self._connection.close()

    def set(self, place: int, how: str) -> None:
        """Catch the statement of that place from now on: it waits, or loses its connection."""
        with self._connection.transaction():
            self._connection.execute("SELECT setval('trap.passed', 1, false)")
            self._connection.execute("DELETE FROM trap.set")
            self._connection.execute("INSERT INTO trap.set VALUES (%s, %s)", (place, how))

    def take_away(self) -> None:
        """Catch nothing any more."""
        self._connection.execute("DELETE FROM trap.set")

    def has_caught(self) -> bool:
        """Tell whether a statement waits."""
        return self._ask(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 7)"
        )

    def let_go(self) -> None:
        """Let the statement that waits go on, and wait until its session is gone."""
        self._connection.execute("SELECT pg_advisory_unlock(%s)", (KEY,))
        until = time.monotonic() + PATIENCE
        while self._ask(
            "SELECT EXISTS (SELECT FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend')"
        ):
            assert time.monotonic() < until
            time.sleep(0.01)
        self._connection.execute("SELECT pg_advisory_lock(%s)", (KEY,))

    def _ask(self, question: str) -> bool:
        row = self._connection.execute(question).fetchone()
        return bool(row and row[0])
