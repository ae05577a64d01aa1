"""Migrations on PostgreSQL that are cut off, wait or fail: the database is as it was, and the next upgrade goes through."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from mer.core.errors import DatabaseUnreachable
from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer_migrations.postgres.lock import KEY
from mer_migrations.postgres.runner import Migrations
from tests.support import versions
from tests.support.databases import empty_database, held, superuser, variables_of
from tests.support.postgres import ROLES, PostgresServer
from tests.support.traps import Trap

PATIENCE = 60.0
"""Seconds: a loaded machine starts a Python in several."""


@pytest.fixture
def empty(postgres_server: PostgresServer) -> Iterator[EmbeddedPostgres]:
    with empty_database(postgres_server) as database:
        yield database


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder of versions: 00 and 01, which is of several kinds of statements."""
    versions.write(tmp_path, 0, "one", ["CREATE TABLE mer.one (id integer);"], down=["DROP TABLE mer.one;"])
    versions.write(
        tmp_path,
        1,
        "two",
        [
            "CREATE TABLE mer.two (id integer);",
            "INSERT INTO mer.two SELECT generate_series(1, 100);",
            "ALTER TABLE mer.one ADD COLUMN two integer;",
        ],
        down=["ALTER TABLE mer.one DROP COLUMN two;", "DROP TABLE mer.two;"],
        driver=["GRANT SELECT ON mer.one, mer.two TO {driver};"],
    )
    return tmp_path


def wait_until(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.02)


def lost_places(trap: Trap, move: Callable[[], object], is_as_before: Callable[[], bool]) -> int:
    """Lose the connection at each statement in turn, and return the number of the first at which none is left."""
    for place in range(1, 200):
        trap.set(place, "lose")
        try:
            move()
        except DatabaseUnreachable:
            assert is_as_before(), place
        else:
            return place
    raise AssertionError("it never got to its end")


def timeless(what: set[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Return what a database holds without when it came and how long it took."""
    return {row[:4] for row in what}


def test_killed_at_any_statement_it_has_not_happened(empty: EmbeddedPostgres, two: Path) -> None:
    migrations, environ = Migrations(empty.owner(), ROLES, versions=two), variables_of(empty)
    migrations.upgrade()
    migrations.downgrade(0)
    committing = 0
    with Trap(empty) as trap:
        before = held(empty)
        migrations.upgrade()
        after = timeless(held(empty))
        migrations.downgrade(0)
        for place in range(1, 100):
            trap.set(place, "wait")
            with versions.started(two, "upgrade", environ=environ) as child:
                wait_until(lambda child=child: trap.has_caught() or child.poll() is not None)  # type: ignore[misc]
                if child.poll() is not None:
                    break
                child.kill()
            trap.let_go()
            trap.take_away()
            found = held(empty)
            if committing := committing + (timeless(found) == after):  # it was told to, before its program was killed
                found = before
            assert found == before, place
            migrations.upgrade()
            migrations.downgrade(0)
            assert held(empty) == before, place
    assert child.returncode == 0
    assert committing <= 2  # what waits at the commit, in each of the two tables
    assert place > 3 + 4 + 1 + 2  # its own, the rights', Alembic's and the record's, and those at the commit


def test_with_its_connection_lost_at_any_statement_it_has_not_happened(empty: EmbeddedPostgres, two: Path) -> None:
    migrations = Migrations(empty.owner(), ROLES, versions=two)
    migrations.upgrade(0)
    with Trap(empty) as trap:
        before = held(empty)
        place = lost_places(trap, lambda: migrations.upgrade(), lambda: held(empty) == before)
    assert place > 3 + 4 + 1 + 2


def test_the_programs_own_migrations_lose_their_connection_at_any_statement(empty: EmbeddedPostgres) -> None:
    migrations = Migrations(empty.owner(), ROLES)
    with Trap(empty) as trap:
        before = held(empty)
        place = lost_places(trap, lambda: migrations.upgrade(), lambda: held(empty) == before)
    assert place > 40


def test_a_downgrade_is_whole_or_not_at_all_too(empty: EmbeddedPostgres) -> None:
    migrations = Migrations(empty.owner(), ROLES)
    migrations.upgrade()
    with Trap(empty, at_commit=False) as trap:  # which tables that are dropped cannot wait for
        before = held(empty)
        place = lost_places(trap, lambda: migrations.downgrade(-1), lambda: held(empty) == before)
    assert place > 5


def test_what_a_killed_program_waited_for_is_let_go(empty: EmbeddedPostgres, two: Path) -> None:
    migrations, environ = Migrations(empty.owner(), ROLES, versions=two), variables_of(empty)
    migrations.upgrade(0)
    with superuser(empty) as reader, reader.transaction():
        reader.execute("SELECT FROM mer.one")  # a long reader: 01 waits for the table
        with versions.started(two, "upgrade", environ=environ) as child, superuser(empty) as watcher:

            def waits() -> bool:
                found = watcher.execute("SELECT FROM pg_locks WHERE NOT granted AND relation = 'mer.one'::regclass")
                return found.fetchone() is not None

            wait_until(waits)
            child.kill()
            wait_until(lambda: not waits())
    assert len(migrations.upgrade()) == 1


def test_two_upgrades_at_once_run_each_migration_once(empty: EmbeddedPostgres, two: Path) -> None:
    environ = variables_of(empty)
    children = [versions.started(two, "upgrade", "--json", environ=environ) for _ in range(2)]
    told = []
    for child in children:
        with child:
            stdout, stderr = child.communicate(timeout=PATIENCE)
            assert child.returncode == 0, stderr
            told.append(json.loads(stdout))
    assert sorted(len(each["applied"]) for each in told) == [0, 2]
    assert [each["current"] for each in told] == [1, 1]


@pytest.mark.parametrize("words", [("upgrade",), ("downgrade", "--to", "base", "--yes"), ("stamp", "00", "--yes")])
def test_who_waits_too_long_is_told_for_whom(empty: EmbeddedPostgres, two: Path, words: tuple[str, ...]) -> None:
    Migrations(empty.owner(), ROLES, versions=two).upgrade(0)
    before = held(empty)
    with psycopg.connect(conninfo(empty.owner()), autocommit=True) as other:
        other.execute("SET application_name = 'somebody else'")
        process = other.info.backend_pid
        other.execute("SELECT pg_advisory_lock(%s)", (KEY,))
        told = versions.migrate(two, *words, environ={**variables_of(empty), "LOCK_SECONDS": "0.5"})
    assert told.returncode == 75
    assert "another program has been migrating" in told.stderr
    assert f"mer_owner from this machine (somebody else, process {process} " in told.stderr
    assert held(empty) == before


def test_a_table_that_somebody_reads_is_waited_for_so_long_and_no_longer(empty: EmbeddedPostgres, two: Path) -> None:
    Migrations(empty.owner(), ROLES, versions=two).upgrade(0)
    before = held(empty)
    with superuser(empty) as reader, reader.transaction():
        reader.execute("SELECT FROM mer.one")
        told = versions.migrate(two, "upgrade", environ={**variables_of(empty), "LOCK_SECONDS": "0.5"})
    assert (told.returncode, "01_two/1-all.sql, statement 3" in told.stderr) == (78, True)
    assert "lock timeout" in told.stderr
    assert held(empty) == before


FAILING = {
    "one that contradicts": ("CREATE TABLE mer.one ();", "already exists"),
    "one that is no SQL": ("CREATE NONSENSE;", "syntax error"),
    "one that divides by zero": ("SELECT 1 / 0;", "division by zero"),
    "two in one": ("CREATE TABLE mer.x (); CREATE TABLE mer.y ();", "multiple commands"),
    "one that ends the transaction behind another": ("SELECT 1; COMMIT;", "multiple commands"),
    "one that is not for a transaction": ("VACUUM;", "transaction block"),
    "one that is not the owner's to do": ("CREATE ROLE x SUPERUSER;", "permission denied"),
}


@pytest.mark.parametrize(("statement", "why"), FAILING.values(), ids=FAILING)
@pytest.mark.parametrize("at", [0, 1])
def test_a_failing_statement_stops_with_file_statement_and_message(
    empty: EmbeddedPostgres, tmp_path: Path, at: int, statement: str, why: str
) -> None:
    for number in range(at + 1):
        up = ["CREATE TABLE mer.one (id integer);" if number == 0 else "CREATE TABLE mer.two (id integer);"]
        versions.write(tmp_path, number, f"n{number}", [*up, statement] if number == at else up)
    migrations = Migrations(empty.owner(), ROLES, versions=tmp_path)
    if at:
        migrations.upgrade(at - 1)
    before = held(empty)
    with pytest.raises(Exception, match=why) as told:
        migrations.upgrade()
    assert type(told.value).__name__ == "MigrationFailed"
    assert f"{at:02}_n{at}/1-all.sql, statement 2 ({statement})" in str(told.value)
    assert held(empty) == before


def test_what_was_applied_before_the_one_that_failed_stays(empty: EmbeddedPostgres, two: Path) -> None:
    bad = versions.write(two, 2, "bad", ["CREATE TABLE mer.three ();", "SELECT 1 / 0;"])
    told: subprocess.CompletedProcess[str] = versions.migrate(two, "upgrade", "--json", environ=variables_of(empty))
    error = json.loads(told.stderr)["error"]
    assert (told.returncode, error["code"], "02_bad/1-all.sql, statement 2" in error["message"]) == (
        *(78, "migration-failed"),
        True,
    )
    (bad / "1-all.sql").write_text("CREATE TABLE mer.three ();")
    again = versions.migrate(two, "upgrade", "--json", environ=variables_of(empty))
    assert [each["number"] for each in json.loads(again.stdout)["applied"]] == [2]
