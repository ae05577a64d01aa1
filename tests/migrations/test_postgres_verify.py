"""Databases of PostgreSQL that mer-migrate does not touch: edited, with a gap, newer, somebody else's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer_migrations.postgres.runner import Migrations
from mer_migrations.postgres.scripts import VERSIONS
from tests.support import versions
from tests.support.databases import empty_database, held, superuser, variables_of
from tests.support.postgres import ROLES, PostgresServer

COMMANDS = (("check",), ("plan",), ("upgrade",), ("downgrade", "--to", "base", "--yes"))


@pytest.fixture
def empty(postgres_server: PostgresServer) -> Iterator[EmbeddedPostgres]:
    with empty_database(postgres_server) as database:
        yield database


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        versions.write(
            tmp_path, number, f"n{number}", [f"CREATE TABLE mer.n{number} ();"], down=[f"DROP TABLE mer.n{number};"]
        )
    return tmp_path


@pytest.fixture
def migrated(empty: EmbeddedPostgres, folder: Path) -> EmbeddedPostgres:
    """A database with 00 and 01, while the folder has a 02 too."""
    Migrations(empty.owner(), ROLES, versions=folder).upgrade(1)
    return empty


def refused(database: EmbeddedPostgres, folder: Path, *words: str, code: int = 78) -> None:
    """Hold every command to that exit code, to these words, and to changing nothing."""
    before = held(database)
    for command in COMMANDS:
        told = versions.migrate(folder, *command, environ=variables_of(database))
        assert (command, told.returncode) == (command, code), told.stderr
        assert "Traceback" not in told.stderr
        for word in words:
            assert word in told.stderr, command
    assert held(database) == before


def in_database(database: EmbeddedPostgres, *statements: str) -> None:
    with psycopg.connect(conninfo(database.owner()), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def test_a_script_that_was_edited_after_it_was_applied(migrated: EmbeddedPostgres, folder: Path) -> None:
    (folder / "00_n0" / "1-all.sql").write_text("CREATE TABLE mer.n0 (more text);")
    refused(migrated, folder, "00 n0 was edited after it was applied")
    history = versions.migrate(folder, "history", environ=variables_of(migrated)).stdout
    assert ["edited since" in line for line in history.splitlines()[1:]] == [True, False]


def test_an_edit_that_was_meant_is_stamped(migrated: EmbeddedPostgres, folder: Path) -> None:
    (folder / "00_n0" / "1-all.sql").write_text("CREATE TABLE mer.n0 ( );")
    assert versions.migrate(folder, "stamp", "01", "--yes", environ=variables_of(migrated)).returncode == 0
    assert versions.migrate(folder, "upgrade", environ=variables_of(migrated)).returncode == 0


def test_a_script_that_was_renamed_after_it_was_applied(migrated: EmbeddedPostgres, folder: Path) -> None:
    for name in ("01_n1", "01_n1.py"):
        (folder / name).rename(folder / name.replace("n1", "other"))
    refused(migrated, folder, "01 other was edited after it was applied", "as 01 n1")


def test_a_number_that_the_database_lacks(migrated: EmbeddedPostgres, folder: Path) -> None:
    in_database(migrated, "DELETE FROM mer.migration WHERE number = 0")
    refused(migrated, folder, "has migration 01 n1, and 00 was never applied")


def test_a_number_that_the_folder_lacks(migrated: EmbeddedPostgres, folder: Path) -> None:
    for name in ("01_n1", "01_n1.py"):
        (folder / name).rename(folder / f".{name}")
    refused(migrated, folder, "number 01 is missing before 02_n2")


def test_a_bad_name(migrated: EmbeddedPostgres, folder: Path) -> None:
    (folder / "3-notes.sql").touch()
    refused(migrated, folder, "3-notes.sql is no migration")


def test_a_newer_database(migrated: EmbeddedPostgres, folder: Path) -> None:
    for number in (1, 2):
        for suffix in ("", ".py"):
            (folder / f"{number:02}_n{number}{suffix}").rename(folder / f".{number}{suffix}")
    refused(migrated, folder, "schema 01, which is newer than this program's 00", "Update mer")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mer.orders (id integer)",
        "CREATE VIEW mer.orders AS SELECT 1",
        "CREATE TABLE mer.migration (version integer)",
        "CREATE VIEW mer.migration AS SELECT 1 number, '' name, '' checksum, NULL::timestamptz applied_at, 1 microseconds",
        "CREATE TABLE mer.alembic_version (version_num varchar(32))",
    ],
)
def test_a_schema_that_is_somebody_elses(empty: EmbeddedPostgres, folder: Path, statement: str) -> None:
    in_database(empty, "CREATE SCHEMA mer", statement)
    refused(empty, folder, "the schema mer", "is somebody else's")


def test_other_schemas_of_the_same_database_are_no_obstacle(empty: EmbeddedPostgres, folder: Path) -> None:
    in_database(
        empty, "CREATE TABLE public.orders (id integer)", "CREATE SCHEMA shop", "CREATE TABLE shop.migration ()"
    )
    before = {row for row in held(empty) if "mer" not in row[1]}
    for command in (("upgrade",), ("downgrade", "--to", "base", "--yes")):
        assert versions.migrate(folder, *command, environ=variables_of(empty)).returncode == 0
        assert {row for row in held(empty) if "mer" not in row[1]} >= before


def test_tables_of_another_owner(migrated: EmbeddedPostgres, folder: Path) -> None:
    with superuser(migrated) as connection:
        connection.execute("ALTER TABLE mer.n1 OWNER TO mer_superuser")
    refused(migrated, folder, "n1 in the schema mer", "belongs to mer_superuser")


@pytest.mark.parametrize(
    "statement", ["DELETE FROM mer.alembic_version", "UPDATE mer.alembic_version SET version_num = '00'"]
)
def test_two_records_that_contradict_each_other(migrated: EmbeddedPostgres, folder: Path, statement: str) -> None:
    in_database(migrated, statement)
    refused(migrated, folder, "01 in mer.migration and", "mer-migrate stamp")
    versions.migrate(folder, "stamp", "01", "--yes", environ=variables_of(migrated))
    assert versions.migrate(folder, "upgrade", environ=variables_of(migrated)).returncode == 0


def test_a_schema_that_is_not_there_is_not_put_on_record(empty: EmbeddedPostgres) -> None:
    before = held(empty)
    told = versions.migrate(VERSIONS, "stamp", "00", "--yes", environ=variables_of(empty))
    assert (told.returncode, "has not got what 00 registry_and_access_log makes" in told.stderr) == (78, True)
    assert held(empty) == before


def test_what_was_put_on_record_by_mistake_is_taken_back(migrated: EmbeddedPostgres, folder: Path) -> None:
    environ = variables_of(migrated)
    assert versions.migrate(folder, "stamp", "base", "--yes", environ=environ).returncode == 0
    assert versions.migrate(folder, "check", environ=environ).returncode == 78
    assert versions.migrate(folder, "stamp", "01", "--yes", environ=environ).returncode == 0
    assert versions.migrate(folder, "upgrade", environ=environ).returncode == 0


def test_stamping_does_not_take_over_somebody_elses_record(empty: EmbeddedPostgres, folder: Path) -> None:
    in_database(empty, "CREATE SCHEMA mer", "CREATE TABLE mer.migration (version integer)")
    before = held(empty)
    told = versions.migrate(folder, "stamp", "00", "--yes", environ=variables_of(empty))
    assert (told.returncode, "somebody else's" in told.stderr) == (78, True)
    assert held(empty) == before
