"""What the roles may do in PostgreSQL, each tried with its own login."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from mer.core.identifiers import uuid7
from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.embedded import EmbeddedPostgres
from tests.support import records
from tests.support.postgres import PostgresServer

IMMUTABLE = ("access", "chain", "version", "retirement", "alias_move", "weights_version")
CHANGES = ("UPDATE mer.{0} SET {1} = {1}", "DELETE FROM mer.{0}", "TRUNCATE mer.{0} CASCADE")
COLUMN = {"access": "seq", "chain": "id", "alias_move": "move"}


@pytest.fixture
def database(postgres_server: PostgresServer) -> EmbeddedPostgres:
    return postgres_server.wiped()


@pytest.fixture
def driver(database: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    with psycopg.connect(conninfo(database.driver()), autocommit=True) as connection:
        yield connection


@pytest.fixture
def owner(database: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    with psycopg.connect(conninfo(database.owner()), autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("table", IMMUTABLE)
@pytest.mark.parametrize("change", CHANGES)
def test_the_driver_cannot_change_what_is_immutable(driver: psycopg.Connection, table: str, change: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        driver.execute(change.format(table, COLUMN.get(table, "number")))


@pytest.mark.parametrize("table", IMMUTABLE)
@pytest.mark.parametrize("change", CHANGES)
def test_not_even_the_owner_changes_what_is_immutable(owner: psycopg.Connection, table: str, change: str) -> None:
    with pytest.raises(psycopg.errors.RestrictViolation, match="never changed"):
        owner.execute(change.format(table, COLUMN.get(table, "number")))


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO mer.access (seq, previous, digest, body, kind, at) VALUES (1, '', '', '', 'change', now())",
        "INSERT INTO mer.open_invocation VALUES (gen_random_uuid(), gen_random_uuid(), 1, 'm', 's')",
        "DELETE FROM mer.open_invocation",
        "INSERT INTO mer.migration VALUES (1, 'x', 'x')",
        "UPDATE mer.migration SET number = 1",
        "DELETE FROM mer.model",
        "SELECT mer.insert_records(ARRAY['{}'], ARRAY['', ''], 7)",
        "LOCK TABLE mer.access_lock IN EXCLUSIVE MODE",
        "LOCK TABLE mer.access IN SHARE MODE",
        "ALTER TABLE mer.access DISABLE TRIGGER ALL",
        "DROP TABLE mer.access",
        "CREATE TABLE mer.mine ()",
        "CREATE TABLE public.mine ()",
        "CREATE TEMP TABLE mine ()",
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SET session_replication_role = replica",
        "SET ROLE mer_owner",
        "COPY mer.access TO PROGRAM 'cat'",
    ],
)
def test_the_driver_can_do_nothing_else(driver: psycopg.Connection, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege), driver.transaction():
        driver.execute(statement)


def test_the_driver_may_not_log_in_to_other_databases(postgres_server: PostgresServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(conninfo(postgres_server.database("postgres").driver()))


def test_appending_is_durable_whatever_the_session_says(driver: psycopg.Connection) -> None:
    driver.execute("SET synchronous_commit = off")
    with driver.transaction():
        driver.execute("SELECT * FROM mer.append(%s)", ([records.change(uuid7())],))
        assert driver.execute("SHOW synchronous_commit").fetchone() == ("on",)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_appending_with_an_old_snapshot_is_refused(driver: psycopg.Connection, level: str) -> None:
    driver.execute(f"SET default_transaction_isolation = '{level.lower()}'")
    with pytest.raises(psycopg.errors.InvalidTransactionState, match="READ COMMITTED"):
        driver.execute("SELECT * FROM mer.append(%s)", ([records.change(uuid7())],))


def test_a_driver_that_stops_holds_no_lock_for_ever(database: EmbeddedPostgres) -> None:
    with psycopg.connect(conninfo(database.driver())) as connection:  # as anybody with its password would
        limits = [
            connection.execute(f"SHOW {name}").fetchone()
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        ]
    assert limits == [("1min",)] * 3
