"""mer-migrate on PostgreSQL: each migration once, whole or not at all, under the owner's login."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from mer.core.errors import NotMigrated
from mer.dal.base import SCHEMA
from mer.dal.open import open_store
from mer.dal.postgres.cluster import DRIVER, OWNER
from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer.settings import load
from mer_migrations.postgres import runner
from mer_migrations.postgres.statements import VERSIONS, statements
from tests.support.postgres import PostgresServer, state_folder


@pytest.fixture
def empty(postgres_server: PostgresServer) -> Iterator[EmbeddedPostgres]:
    """A database of the owner's with nothing in it."""
    name = f"empty_{os.urandom(8).hex()}"
    postgres_server.execute(f"CREATE DATABASE {name} OWNER {OWNER} TEMPLATE template0")
    try:
        yield postgres_server.database(name)
    finally:
        postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def url_of(database: EmbeddedPostgres) -> dict[str, str]:
    """Return the variables that lead to a database as if it were a server's."""
    owner, driver = database.owner().parameters, database.driver().parameters
    return {
        "DB_CONNECTION_URL": f"postgresql:///{owner['dbname']}?host={owner['host']}",
        "MIGRATIONS_DB_USERNAME": OWNER,
        "MIGRATIONS_DB_PASSWORD": owner["password"],
        "DRIVER_DB_USERNAME": DRIVER,
        "DRIVER_DB_PASSWORD": driver["password"],
    }


def migrate(*arguments: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mer_migrations", *arguments],
        env=dict(environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_newest_migration_is_the_schema_that_the_driver_needs() -> None:
    assert runner.scripts()[-1].number == SCHEMA


def test_migrations_are_numbered_from_00_without_a_gap() -> None:
    assert [script.number for script in runner.scripts()] == list(range(SCHEMA + 1))


def test_an_empty_database_is_upgraded_once(empty: EmbeddedPostgres) -> None:
    before = runner.current(empty.owner())
    first = runner.upgrade(empty.owner(), driver=DRIVER)
    second = runner.upgrade(empty.owner(), driver=DRIVER)
    assert (before, len(first), second) == (None, SCHEMA + 1, ())
    assert runner.current(empty.driver()) == SCHEMA


def test_two_upgrades_at_once_run_each_migration_once(empty: EmbeddedPostgres) -> None:
    with ThreadPoolExecutor(2) as threads:
        applied = list(threads.map(lambda _: runner.upgrade(empty.owner(), driver=DRIVER), range(2)))
    assert sorted(map(len, applied)) == [0, SCHEMA + 1]


def test_a_migration_that_fails_leaves_the_database_as_it_was(empty: EmbeddedPostgres) -> None:
    with psycopg.connect(conninfo(empty.owner()), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA mer")
        connection.execute("CREATE TABLE mer.placement ()")  # in the way of the migration's eighth statement
        with pytest.raises(runner.MigrationFailed, match="placement") as told:
            runner.upgrade(empty.owner(), driver=DRIVER)
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'mer' ORDER BY 1").fetchall()
    assert "CREATE TABLE mer.placement" in told.value.message
    assert ("server",) not in tables
    assert runner.current(empty.owner()) is None


def test_a_drivers_role_of_any_name_gets_its_rights_and_no_more(empty: EmbeddedPostgres) -> None:
    (grant, *_) = [
        each for each in statements(VERSIONS / "00_registry_and_access_log", driver='a"b') if "GRANT" in each
    ]
    assert 'TO "a""b"' in grant


def test_current_check_and_upgrade_tell_a_server_apart(empty: EmbeddedPostgres) -> None:
    environ = url_of(empty)
    before = migrate("current", environ=environ)
    check = migrate("check", environ=environ)
    upgrade = migrate("upgrade", environ=environ)
    again = migrate("check", environ=environ)
    assert (before.returncode, before.stdout.strip().endswith("not migrated")) == (0, True)
    assert (check.returncode, "mer-migrate upgrade" in check.stderr) == (78, True)
    assert (upgrade.returncode, "applied 00 registry_and_access_log" in upgrade.stdout) == (0, True)
    assert (again.returncode, "up to date" in again.stdout) == (0, True)


def test_json_is_one_object_on_stdout(empty: EmbeddedPostgres) -> None:
    environ = url_of(empty)
    told = json.loads(migrate("upgrade", "--json", environ=environ).stdout)
    assert told["applied"] == [{"number": 0, "name": "registry_and_access_log"}]
    assert (told["current"], told["newest"]) == (SCHEMA, SCHEMA)
    assert json.loads(migrate("check", "--json", environ=environ).stdout)["pending"] == []


def test_a_wrong_password_is_77_and_does_not_show(empty: EmbeddedPostgres) -> None:
    told = migrate("upgrade", environ={**url_of(empty), "MIGRATIONS_DB_PASSWORD": "hunter2"})
    assert told.returncode == 77
    assert "hunter2" not in told.stdout + told.stderr


def test_a_server_that_is_down_is_69() -> None:
    assert migrate("check", environ={"DB_CONNECTION_URL": "postgresql://ada@127.0.0.1:1/mer"}).returncode == 69


def test_an_unknown_database_is_78() -> None:
    assert migrate("check", environ={"DB_CONNECTION_URL": "oracle://x"}).returncode == 78


def test_an_unknown_command_is_2() -> None:
    assert migrate("rejoice", environ={}).returncode == 2


def test_a_newer_database_is_left_alone(empty: EmbeddedPostgres) -> None:
    runner.upgrade(empty.owner(), driver=DRIVER)
    with psycopg.connect(conninfo(empty.owner()), autocommit=True) as connection:
        connection.execute("UPDATE mer.migration SET version_num = '99'")
    told = migrate("upgrade", environ=url_of(empty))
    assert (told.returncode, "newer" in told.stderr) == (78, True)


def test_a_missing_drivers_role_that_the_owner_may_not_make_is_asked_for(empty: EmbeddedPostgres) -> None:
    told = migrate("upgrade", environ={**url_of(empty), "DRIVER_DB_USERNAME": "nobody_yet"})
    assert (told.returncode, 'CREATE ROLE "nobody_yet"' in told.stderr) == (78, True)


async def test_a_server_is_never_migrated_by_the_driver(empty: EmbeddedPostgres, tmp_path: Path) -> None:
    settings = load(environ={**url_of(empty), "MER_STATE_FOLDER": str(tmp_path)})
    with pytest.raises(NotMigrated):
        await open_store(settings)
    assert runner.current(empty.owner()) is None


async def test_the_embedded_database_starts_and_migrates_itself() -> None:
    with state_folder() as folder:
        store = await open_store(load(environ={"MER_STATE_FOLDER": str(folder)}))
        assert await store.schema() == SCHEMA
        await store.close()
        assert migrate("check", environ={"MER_STATE_FOLDER": str(folder)}).returncode == 0
