"""mer-migrate on PostgreSQL: each migration once, whole or not at all, under the owner's login."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import pexpect
import psycopg
import pytest

from mer import __version__
from mer.core.errors import NotMigrated
from mer.core.identifiers import uuid7
from mer.dal.base import SCHEMA
from mer.dal.open import open_store
from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer.settings import Settings, load
from mer_migrations.__main__ import run
from mer_migrations.postgres import runner
from mer_migrations.postgres.runner import Migrations
from mer_migrations.postgres.scripts import read_scripts
from mer_migrations.target import Target
from tests.support import records, versions
from tests.support.databases import empty_database, held, superuser, variables_of
from tests.support.postgres import ROLES, PostgresServer, state_folder
from tests.support.postgres_server import OWNER as TEAM_OWNER
from tests.support.postgres_server import TeamServer


@pytest.fixture
def empty(postgres_server: PostgresServer) -> Iterator[EmbeddedPostgres]:
    with empty_database(postgres_server) as database:
        yield database


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A folder of versions: 00, 01 and 02, each with a table that the driver may read; 01 has no way down."""
    for number, name in enumerate(("one", "two", "three")):
        versions.write(
            tmp_path,
            number,
            name,
            [f"CREATE TABLE mer.{name} (id integer);", f"INSERT INTO mer.{name} VALUES ({number});"],
            down=[] if name == "two" else [f"DROP TABLE mer.{name};"],
            driver=["GRANT USAGE ON SCHEMA mer TO {driver};", f"GRANT SELECT ON mer.{name} TO {{driver}};"],
        )
    return tmp_path


def migrate(*arguments: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `mer-migrate` as its users do."""
    return subprocess.run(
        [sys.executable, "-m", "mer_migrations", *arguments],
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def numbers(database: EmbeddedPostgres) -> list[int]:
    return [each.number for each in runner.applied(database.owner())]


def test_the_newest_migration_is_the_schema_that_the_driver_needs() -> None:
    assert [script.number for script in read_scripts()] == list(range(SCHEMA + 1))


def test_an_empty_database_is_upgraded_once(empty: EmbeddedPostgres) -> None:
    before = numbers(empty)
    first = Migrations(empty.owner(), ROLES).upgrade()
    second = Migrations(empty.owner(), ROLES).upgrade()
    assert (before, len(first), second, numbers(empty)) == ([], SCHEMA + 1, (), list(range(SCHEMA + 1)))


def test_a_migration_is_noted_with_its_checksum_time_and_duration(empty: EmbeddedPostgres) -> None:
    Migrations(empty.owner(), ROLES).upgrade()
    (noted, *_) = runner.applied(empty.owner())
    (script, *_) = read_scripts()
    assert (noted.name, noted.checksum) == (script.name, script.checksum)
    assert noted.applied_at.utcoffset() is not None
    assert noted.microseconds is not None
    assert noted.microseconds > 0


def test_an_upgrade_goes_as_far_as_it_is_told(empty: EmbeddedPostgres, three: Path) -> None:
    migrations = Migrations(empty.owner(), ROLES, versions=three)
    assert [script.name for script in migrations.upgrade(1)] == ["one", "two"]
    assert [script.name for script in migrations.upgrade()] == ["three"]


def test_a_downgrade_and_an_upgrade_leave_what_was_there_before(empty: EmbeddedPostgres, three: Path) -> None:
    migrations = Migrations(empty.owner(), ROLES, versions=three)
    migrations.upgrade(1)
    at_01 = held(empty)
    migrations.upgrade()
    assert [script.name for script in migrations.downgrade(1)] == ["three"]
    assert held(empty) == at_01


def test_base_leaves_nothing_of_the_schema(empty: EmbeddedPostgres) -> None:
    before, environ = held(empty), variables_of(empty)
    versions.migrate_own("upgrade", environ=environ)
    told = versions.migrate_own("downgrade", "--to", "base", "--yes", environ=environ)
    assert (told.returncode, "took back 00 registry_and_access_log" in told.stdout) == (0, True)
    assert "THIS DELETES THE REGISTRY AND THE WHOLE ACCESS LOG" in told.stderr
    assert held(empty) == before
    assert versions.migrate_own("upgrade", environ=environ).returncode == 0


def test_base_leaves_a_schema_that_the_owner_could_not_make_again(
    empty: EmbeddedPostgres, postgres_server: PostgresServer
) -> None:
    name = empty.owner().parameters["dbname"]
    with superuser(empty) as connection:
        connection.execute(f"ALTER DATABASE {name} OWNER TO mer_superuser")
        connection.execute("CREATE SCHEMA mer AUTHORIZATION mer_owner")
        connection.execute(f"GRANT CONNECT ON DATABASE {name} TO mer_owner")
    migrations = Migrations(empty.owner(), ROLES)
    for _ in range(2):
        migrations.upgrade()
        migrations.downgrade(-1)


def test_a_downgrade_asks_and_without_a_terminal_is_2(empty: EmbeddedPostgres) -> None:
    environ = variables_of(empty)
    versions.migrate_own("upgrade", environ=environ)
    told = versions.migrate_own("downgrade", "--to", "base", environ=environ)
    assert (told.returncode, "--yes" in told.stderr) == (2, True)
    assert numbers(empty) == [0]


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 130, [0]), ("y", 0, [])])
def test_at_a_terminal_the_operator_is_asked(empty: EmbeddedPostgres, answer: str, code: int, left: list[int]) -> None:
    environ = variables_of(empty)
    versions.migrate_own("upgrade", environ=environ)
    child = pexpect.spawn(
        sys.executable,
        ["-m", "mer_migrations", "downgrade", "--to", "base"],
        env={**os.environ, **environ},
        encoding="utf-8",
        timeout=30,
    )
    child.expect("THE WHOLE ACCESS LOG")
    child.expect(r"\[y/N\]")
    child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    assert (child.exitstatus, numbers(empty)) == (code, left)


def test_where_there_is_no_way_down_nothing_is_taken_back(empty: EmbeddedPostgres, three: Path) -> None:
    environ = variables_of(empty)
    versions.migrate(three, "upgrade", environ=environ)
    told = versions.migrate(three, "downgrade", "--to", "00", "--yes", environ=environ)
    assert (told.returncode, "01 two has no way down" in told.stderr) == (2, True)
    assert numbers(empty) == [0, 1, 2]


def test_a_plan_shows_the_very_statements_and_runs_none(empty: EmbeddedPostgres, three: Path) -> None:
    environ, before = {**variables_of(empty), "DRIVER_DB_USERNAME": 'a"b'}, held(empty)
    told = json.loads(versions.migrate(three, "plan", "--to", "01", "--json", environ=environ).stdout)
    assert [(each["number"], each["direction"]) for each in told["planned"]] == [(0, "up"), (1, "up")]
    assert told["planned"][0]["statements"][0] == "CREATE SCHEMA mer;"
    assert "CREATE TABLE mer.one (id integer);" in told["planned"][0]["statements"]
    assert told["planned"][1]["statements"][-1] == 'GRANT SELECT ON mer.two TO "a""b";'
    assert held(empty) == before


def test_what_a_plan_shows_is_what_the_server_is_sent(empty: EmbeddedPostgres, three: Path) -> None:
    with superuser(empty) as connection:
        name = empty.owner().parameters["dbname"]
        connection.execute(f"ALTER DATABASE {name} SET log_statement = 'all'")
        log = empty.status().log
        planned = Migrations(empty.owner(), ROLES, versions=three).plan(None)
        begun = log.stat().st_size
        Migrations(empty.owner(), ROLES, versions=three).upgrade()
    with log.open() as file:
        file.seek(begun)
        sent = " ".join(file.read().split())
    for _, _, statements in planned:
        for statement in statements:
            place = sent.find(" ".join(statement.text.split()))
            assert place >= 0, statement
            sent = sent[place:]  # and in that order


def test_a_plan_downwards_shows_what_is_dropped(empty: EmbeddedPostgres) -> None:
    environ = variables_of(empty)
    assert versions.migrate_own("upgrade", environ=environ).returncode == 0
    assert versions.migrate_own("plan", environ=environ).stdout.endswith("nothing to do\n")
    told = versions.migrate_own("plan", "--to", "base", environ=environ)
    assert "-- 00 registry_and_access_log, DOWNWARDS" in told.stdout
    assert "DROP TABLE mer.access_lock" in told.stdout
    assert numbers(empty) == [0]


def test_history_shows_when_how_long_and_by_which_bytes(empty: EmbeddedPostgres, three: Path) -> None:
    environ = variables_of(empty)
    assert json.loads(versions.migrate(three, "history", "--json", environ=environ).stdout)["applied"] == []
    versions.migrate(three, "upgrade", "--to", "00", environ=environ)
    with psycopg.connect(conninfo(empty.owner())) as connection:
        connection.execute("CREATE TABLE mer.two (id integer)")
    versions.migrate(three, "stamp", "01", "--yes", environ=environ)
    applied = json.loads(versions.migrate(three, "history", "--json", environ=environ).stdout)["applied"]
    assert [(each["number"], each["name"], each["edited"]) for each in applied] == [
        (0, "one", False),
        (1, "two", False),
    ]
    content = (three / "01_two" / "1-all.sql").read_bytes()
    assert applied[1]["checksum"] == hashlib.sha256(b"1-all.sql\0%d\0%s" % (len(content), content)).hexdigest()
    assert applied[1]["microseconds"] is None
    table = versions.migrate(three, "history", environ=environ).stdout
    assert [line.split()[0] for line in table.splitlines()] == ["NUMBER", "00", "01"]


def test_stamping_takes_over_a_schema_that_was_made_by_other_means(empty: EmbeddedPostgres, three: Path) -> None:
    environ = variables_of(empty)
    with psycopg.connect(conninfo(empty.owner())) as connection:
        connection.execute("CREATE SCHEMA mer")
        connection.execute("CREATE TABLE mer.one (id integer)")
    assert versions.migrate(three, "upgrade", environ=environ).returncode == 78
    assert versions.migrate(three, "stamp", "00", environ=environ).returncode == 2
    assert versions.migrate(three, "stamp", "00", "--yes", environ=environ).returncode == 0
    told = json.loads(versions.migrate(three, "upgrade", "--json", environ=environ).stdout)
    assert [each["number"] for each in told["applied"]] == [1, 2]
    with psycopg.connect(conninfo(empty.driver())) as connection:
        connection.execute("SELECT FROM mer.one")  # the rights of what was stamped are given, too


def test_a_teams_server_goes_up_and_down(team_server: TeamServer) -> None:
    name = f"empty_{os.urandom(8).hex()}"
    team_server.execute(f"CREATE DATABASE {name} OWNER {TEAM_OWNER}")
    environ = team_server.environment(name)
    try:
        for words in (("upgrade",), ("check",), ("downgrade", "--to", "base", "--yes"), ("upgrade",)):
            told = versions.migrate_own(*words, environ=environ)
            assert told.returncode == 0, told.stderr
            assert "administrator" not in told.stderr
    finally:
        team_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_current_check_and_upgrade_tell_a_server_apart(empty: EmbeddedPostgres) -> None:
    environ = variables_of(empty)
    before = migrate("current", environ=environ)
    check = migrate("check", environ=environ)
    upgrade = migrate("upgrade", environ=environ)
    again = migrate("check", environ=environ)
    assert (before.returncode, before.stdout.strip().endswith("not migrated")) == (0, True)
    assert (check.returncode, "mer-migrate upgrade" in check.stderr) == (78, True)
    assert (upgrade.returncode, "applied 00 registry_and_access_log" in upgrade.stdout) == (0, True)
    assert (again.returncode, "up to date" in again.stdout) == (0, True)


def test_json_is_one_object_on_stdout(empty: EmbeddedPostgres) -> None:
    environ = variables_of(empty)
    pending = versions.migrate_own("check", "--json", environ=environ)
    assert [each["number"] for each in json.loads(pending.stdout)["pending"]] == list(range(SCHEMA + 1))
    assert json.loads(pending.stderr)["error"]["code"] == "not-migrated"
    told = json.loads(versions.migrate_own("upgrade", "--json", environ=environ).stdout)
    assert told["applied"] == [{"number": 0, "name": "registry_and_access_log"}]
    assert (told["current"], told["newest"]) == (SCHEMA, SCHEMA)
    assert json.loads(versions.migrate_own("check", "--json", environ=environ).stdout)["pending"] == []
    assert json.loads(versions.migrate_own("current", "--json", environ=environ).stdout)["current"] == SCHEMA
    assert json.loads(versions.migrate_own("plan", "--json", environ=environ).stdout)["planned"] == []
    taken = json.loads(versions.migrate_own("downgrade", "--to", "base", "--yes", "--json", environ=environ).stdout)
    assert (taken["current"], [each["number"] for each in taken["taken_back"]]) == (None, [0])


def test_an_upgrade_takes_no_right_away_for_a_moment(empty: EmbeddedPostgres) -> None:
    migrations = Migrations(empty.owner(), ROLES)
    migrations.upgrade()
    ended = threading.Event()

    def append() -> int:
        """Append until the end; a right that is missing for a moment raises."""
        count = 0
        with psycopg.connect(conninfo(empty.driver()), autocommit=True) as driver:
            while not ended.is_set():
                driver.execute("SELECT * FROM mer.append(%s)", ([records.change(uuid7())],))
                count += 1
        return count

    with ThreadPoolExecutor(2) as threads:
        appending = [threads.submit(append) for _ in range(2)]
        try:
            for _ in range(10):
                migrations.upgrade()
        finally:
            ended.set()
    assert all(each.result() for each in appending)


def test_an_upgrade_waits_for_no_table_where_nothing_is_to_be_applied(empty: EmbeddedPostgres) -> None:
    migrations = Migrations(empty.owner(), ROLES, lock_seconds=1)
    migrations.upgrade()
    with superuser(empty) as other, other.transaction():
        other.execute("LOCK TABLE mer.access IN SHARE ROW EXCLUSIVE MODE")  # as a long append, or a VACUUM
        assert migrations.upgrade() == ()


def test_a_bug_is_70_with_its_traceback_and_no_secret(empty: EmbeddedPostgres) -> None:
    def broken(settings: Settings) -> Target:
        raise RuntimeError(f"no bug has {settings.migrations_password}")

    err = io.StringIO()
    environ = {**variables_of(empty), "MIGRATIONS_DB_PASSWORD": "hunter2"}
    with patch.dict(os.environ, environ, clear=True), contextlib.redirect_stderr(err):
        assert run(["check"], open_target=broken) == 70
    assert ("RuntimeError: no bug has" in err.getvalue(), "hunter2" in err.getvalue()) == (True, False)


def test_a_wrong_password_is_77_and_does_not_show(empty: EmbeddedPostgres) -> None:
    told = versions.migrate_own("upgrade", environ={**variables_of(empty), "MIGRATIONS_DB_PASSWORD": "hunter2"})
    assert told.returncode == 77
    assert "hunter2" not in told.stdout + told.stderr


def test_a_server_that_is_down_is_69() -> None:
    told = migrate("check", "--json", environ={"DB_CONNECTION_URL": "postgresql://ada@127.0.0.1:1/mer"})
    assert (told.returncode, json.loads(told.stderr)["error"]["exit_code"]) == (69, 69)


def test_an_unknown_database_is_78() -> None:
    assert migrate("check", environ={"DB_CONNECTION_URL": "oracle://x"}).returncode == 78


@pytest.mark.parametrize(
    "words", [("rejoice",), ("downgrade",), ("upgrade", "--to", "base"), ("plan", "--to", "x"), ("stamp", "-1")]
)
def test_what_is_no_command_is_2(words: tuple[str, ...]) -> None:
    assert migrate(*words, environ={}).returncode == 2


def test_without_a_command_it_shows_its_help_and_a_wrong_command_names_its_own() -> None:
    bare = migrate(environ={})
    assert (bare.returncode, bare.stdout.startswith("Usage: mer-migrate"), bare.stderr) == (2, True, "")
    assert "mer-migrate downgrade --help" in migrate("downgrade", environ={}).stderr
    told = migrate("--version", environ={})
    assert (told.returncode, told.stdout) == (0, f"mer-migrate {__version__}\n")


@pytest.mark.parametrize("words", [("upgrade", "--to", "07"), ("plan", "--to", "07"), ("stamp", "07", "--yes")])
def test_a_number_that_no_migration_has_is_2(empty: EmbeddedPostgres, words: tuple[str, ...]) -> None:
    told = versions.migrate_own(*words, environ=variables_of(empty))
    assert (told.returncode, "07" in told.stderr) == (2, True)


def test_an_upgrade_to_what_is_behind_is_2(empty: EmbeddedPostgres, three: Path) -> None:
    environ = variables_of(empty)
    versions.migrate(three, "upgrade", environ=environ)
    told = versions.migrate(three, "upgrade", "--to", "00", environ=environ)
    assert (told.returncode, "downgrade --to 00" in told.stderr) == (2, True)


async def test_a_server_is_never_migrated_by_the_driver(empty: EmbeddedPostgres, tmp_path: Path) -> None:
    settings = load(environ={**variables_of(empty), "MER_STATE_FOLDER": str(tmp_path)})
    with pytest.raises(NotMigrated):
        await open_store(settings)
    assert numbers(empty) == []


async def test_the_embedded_database_starts_and_migrates_itself() -> None:
    with state_folder() as folder:
        store = await open_store(load(environ={"MER_STATE_FOLDER": str(folder)}))
        assert await store.schema() == SCHEMA
        await store.close()
        assert migrate("check", environ={"MER_STATE_FOLDER": str(folder)}).returncode == 0
