"""Numbered SurrealQL scripts: each once, whole or not at all, and what stops them says why."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mer.core.errors import ConfigurationError, NotMigrated, UsageError
from mer.dal.base import SCHEMA
from mer.dal.surreal import SurrealStore
from mer.dal.surreal.migrations import BEFORE_00, Migrations, open_migrations
from mer.dal.surreal.queries import Query
from mer.dal.surreal.scripts import read_scripts, scripts_folder
from tests.support import records
from tests.support.surreal import by_hand

FIRST = "00-registry_and_access_log.surql"
FIRST_DOWN = "00-registry_and_access_log.down.surql"
NOTES = "01-Notes.surql"
NOTES_TEXT = "DEFINE TABLE note SCHEMAFULL;\nDEFINE FIELD text ON note TYPE string;\nCREATE note:1 SET text = 'a; b';"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the program's own scripts."""
    return Path(shutil.copytree(scripts_folder(), tmp_path / "scripts", ignore=shutil.ignore_patterns("*.py*", "__*")))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"surrealkv://{tmp_path / 'registry'}"


@pytest.fixture
async def migrations(url: str, folder: Path) -> AsyncIterator[Migrations]:
    async with open_migrations(url, lock_seconds=5, folder=folder) as opened:
        yield opened


def test_the_programs_own_scripts_end_with_the_schema_that_it_needs() -> None:
    assert [script.number for script in read_scripts(scripts_folder())] == list(range(SCHEMA + 1))


async def test_a_new_database_has_no_migrations_and_needs_all(migrations: Migrations) -> None:
    assert await migrations.current() == ()
    assert [script.number for script in await migrations.check()] == [0]


async def test_upgrading_applies_each_script_once(migrations: Migrations, folder: Path) -> None:
    (folder / NOTES).write_text(NOTES_TEXT)
    assert [script.name for script in await migrations.upgrade()] == ["registry_and_access_log", "Notes"]
    assert await migrations.upgrade() == ()
    assert await migrations.check() == ()


async def test_each_migration_is_noted_with_its_checksum_time_and_duration(
    migrations: Migrations, folder: Path
) -> None:
    (script,) = await migrations.upgrade()
    (noted,) = await migrations.current()
    assert (noted.number, noted.name, noted.checksum) == (0, script.name, script.checksum)
    assert noted.microseconds
    assert noted.applied_at.utcoffset() is not None


async def test_a_failing_statement_stops_with_file_statement_and_message(migrations: Migrations, folder: Path) -> None:
    (folder / NOTES).write_text(NOTES_TEXT + "\nCREATE note:2 SET text = 5;\nCREATE note:3 SET text = '';")
    with pytest.raises(ConfigurationError) as caught:
        await migrations.upgrade()
    assert NOTES in caught.value.message
    assert "statement 4 (CREATE note:2 SET text = 5)" in caught.value.message
    assert "Expected `string` but found `5`" in caught.value.message


async def test_a_failing_script_leaves_the_database_as_it_was(migrations: Migrations, folder: Path, url: str) -> None:
    await migrations.upgrade()
    (folder / NOTES).write_text(NOTES_TEXT + "\nTHROW 'no';")
    with pytest.raises(ConfigurationError, match="no"):
        await migrations.upgrade()
    assert [noted.number for noted in await migrations.current()] == [0]
    (folder / NOTES).write_text(NOTES_TEXT)
    assert [script.number for script in await migrations.upgrade()] == [1]


async def test_a_script_that_is_no_surrealql_is_named_with_the_place(migrations: Migrations, folder: Path) -> None:
    (folder / NOTES).write_text("DEFINE TABLE note;\nDEFINE NONSENSE;")
    with pytest.raises(ConfigurationError, match=rf"(?s){NOTES}.*\[2:8\].*NONSENSE"):
        await migrations.upgrade()
    assert [noted.number for noted in await migrations.current()] == [0]


async def test_an_edited_script_stops_everything(migrations: Migrations, folder: Path) -> None:
    await migrations.upgrade()
    path = folder / FIRST
    path.write_text(path.read_text() + "\n-- harmless")
    with pytest.raises(ConfigurationError, match="was edited after it was applied") as caught:
        await migrations.upgrade()
    assert path.name in caught.value.message


async def test_a_renamed_script_counts_as_edited(migrations: Migrations, folder: Path) -> None:
    await migrations.upgrade()
    (folder / FIRST).rename(folder / "00-Other.surql")
    (folder / FIRST_DOWN).rename(folder / "00-Other.down.surql")
    with pytest.raises(ConfigurationError, match="edited"):
        await migrations.check()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("02-Late.surql", "number 01 is missing"),
        ("00-Again.surql", "has the number 00 too"),
        ("1-Short.surql", "NN-Name.surql"),
        ("01 Spaced.surql", "NN-Name.surql"),
        ("01-Größe.surql", "NN-Name.surql"),
    ],
)
async def test_a_bad_name_or_number_stops_everything(migrations: Migrations, folder: Path, name: str, why: str) -> None:
    (folder / name).write_text(NOTES_TEXT)
    with pytest.raises(ConfigurationError, match=why):
        await migrations.upgrade()
    assert await migrations.current() == ()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no statements"),
        (b"-- only words", "no statements"),
        (b"CREATE note:1 SET text = 'open", "no end"),
        (b"CREATE note:1 SET text = {;", "brackets"),
        (b"\xff", "utf-8"),
        (b"CREATE note:1; COMMIT; CREATE note:2;", "COMMIT may not stand"),
        (b"use ns other; CREATE note:1;", "may not stand"),
    ],
)
async def test_a_script_that_cannot_be_run_stops_everything(
    migrations: Migrations, folder: Path, content: bytes, why: str
) -> None:
    (folder / NOTES).write_bytes(content)
    with pytest.raises(ConfigurationError, match=why):
        await migrations.upgrade()
    assert await migrations.current() == ()


async def test_scripts_of_downgrades_are_no_upgrades(migrations: Migrations, folder: Path) -> None:
    (folder / "00-registry_and_access_log.down.surql").write_text("REMOVE TABLE model;")
    assert [script.number for script in await migrations.upgrade()] == [0]


async def test_two_that_upgrade_at_once_apply_each_script_once(url: str, folder: Path) -> None:
    (folder / NOTES).write_text(NOTES_TEXT)

    async def upgrade() -> int:
        async with open_migrations(url, lock_seconds=20, folder=folder) as migrations:
            return len(await migrations.upgrade())

    assert sorted(await asyncio.gather(upgrade(), upgrade())) == [0, 2]


async def test_two_programs_that_upgrade_at_once_apply_each_script_once(url: str) -> None:
    program = (
        "import asyncio, sys\n"
        "from mer.dal.surreal.migrations import open_migrations\n"
        "async def main():\n"
        "    async with open_migrations(sys.argv[1], lock_seconds=30) as migrations:\n"
        "        print(len(await migrations.upgrade()))\n"
        "asyncio.run(main())\n"
    )
    started = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", program, url, stdout=asyncio.subprocess.PIPE)
        for _ in range(2)
    ]
    outputs = [(await asyncio.wait_for(each.communicate(), 60))[0].strip() for each in started]
    assert sorted(outputs) == [b"0", b"1"]


async def test_somebody_elses_database_is_left_alone(url: str, tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir(mode=0o700)
    await by_hand(url, "CREATE customer:1 SET name = 'x'")
    async with open_migrations(url, lock_seconds=5) as migrations:
        with pytest.raises(ConfigurationError, match="customer"):
            await migrations.upgrade()
    (result,) = await by_hand(url, "INFO FOR DB")
    assert list(result["result"]["tables"]) == ["customer"]


async def test_a_store_that_was_never_migrated_says_what_to_do(url: str) -> None:
    store = SurrealStore(url)
    with pytest.raises(NotMigrated) as caught:
        await store.open()
    assert "mer-migrate upgrade" in str(caught.value.hint)
    # and it has let the folder go, for the program that does it
    async with open_migrations(url, lock_seconds=0) as migrations:
        await migrations.upgrade()
    await store.open()
    await store.close()


async def test_a_newer_database_is_refused_by_store_and_migrations(url: str, folder: Path) -> None:
    (folder / NOTES).write_text(NOTES_TEXT)
    async with open_migrations(url, lock_seconds=5, folder=folder) as migrations:
        await migrations.upgrade()
    store = SurrealStore(url)
    with pytest.raises(NotMigrated, match="01"):
        await store.open()
    await store.close()
    async with open_migrations(url, lock_seconds=5) as migrations:
        with pytest.raises(NotMigrated, match="01-Notes"):
            await migrations.upgrade()


async def test_a_hole_in_what_was_applied_is_refused(url: str, folder: Path) -> None:
    (folder / NOTES).write_text(NOTES_TEXT)
    async with open_migrations(url, lock_seconds=5, folder=folder) as migrations:
        await migrations.upgrade()
    await by_hand(url, "DELETE migrations:0")
    async with open_migrations(url, lock_seconds=5, folder=folder) as migrations:
        with pytest.raises(ConfigurationError, match="00 was never applied"):
            await migrations.check()


async def test_memory_migrates_itself_and_cannot_be_migrated_by_others() -> None:
    store = SurrealStore("mem://")
    await store.open()
    await store.models.add(records.model("digits"))
    assert await store.schema() == SCHEMA
    await store.close()
    with pytest.raises(ConfigurationError, match="own"):
        async with open_migrations("mem://", lock_seconds=1):
            pass


NOTES_DOWN = "01-Notes.down.surql"


def write_notes(folder: Path, down: str | None = "REMOVE TABLE note;") -> None:
    (folder / NOTES).write_text(NOTES_TEXT)
    if down is not None:
        (folder / NOTES_DOWN).write_text(down)


async def test_what_an_upgrade_made_a_downgrade_takes_away(migrations: Migrations, folder: Path, url: str) -> None:
    async with migrations._connection.in_use():
        before = (await migrations._connection.run("INFO FOR DB;", {}))[0]["result"]
        await migrations.upgrade()
        assert [script.path.name for script in await migrations.downgrade(BEFORE_00)] == [FIRST_DOWN]
        assert (await migrations._connection.run("INFO FOR DB;", {}))[0]["result"] == before
    assert await migrations.current() == ()
    assert [script.number for script in await migrations.upgrade()] == [0]


async def test_scripts_go_down_the_last_first_as_far_as_asked(migrations: Migrations, folder: Path) -> None:
    write_notes(folder)
    await migrations.upgrade()
    assert [script.number for script in await migrations.downgrade(0)] == [1]
    assert [noted.number for noted in await migrations.current()] == [0]
    await migrations.upgrade()
    assert [script.number for script in await migrations.downgrade(BEFORE_00)] == [1, 0]


async def test_an_upgrade_goes_no_further_than_asked(migrations: Migrations, folder: Path) -> None:
    write_notes(folder)
    assert [script.number for script in await migrations.upgrade(0)] == [0]
    assert await migrations.upgrade(0) == ()
    await migrations.upgrade()
    with pytest.raises(UsageError, match="00 is behind"):
        await migrations.upgrade(0)
    with pytest.raises(UsageError, match="no migration 07"):
        await migrations.upgrade(7)


async def test_what_has_no_way_down_stays(migrations: Migrations, folder: Path) -> None:
    write_notes(folder, down=None)
    await migrations.upgrade()
    with pytest.raises(UsageError, match="nobody has written how"):
        await migrations.downgrade(0)


async def test_a_downgrade_does_not_go_up(migrations: Migrations, folder: Path) -> None:
    write_notes(folder)
    await migrations.upgrade(0)
    with pytest.raises(UsageError, match="01 is ahead"):
        await migrations.downgrade(1)


async def test_a_downgrade_that_fails_leaves_everything(migrations: Migrations, folder: Path) -> None:
    write_notes(folder, down="DELETE note;\nREMOVE TABLE note;\nTHROW 'no';")
    await migrations.upgrade()
    with pytest.raises(ConfigurationError, match=rf"{NOTES_DOWN}, statement 3 \(THROW 'no'\)"):
        await migrations.downgrade(0)
    assert [noted.number for noted in await migrations.current()] == [0, 1]
    assert len(await migrations._run.ask(queried("SELECT * FROM note;"))) == 1


async def test_a_plan_names_what_would_run_and_runs_nothing(migrations: Migrations, folder: Path) -> None:
    write_notes(folder)
    planned = await migrations.plan(None)
    assert [(script.number, direction) for script, direction in planned] == [(0, "up"), (1, "up")]
    assert await migrations.current() == ()
    await migrations.upgrade()
    assert await migrations.plan(None) == ()
    ((script, direction),) = await migrations.plan(0)
    assert (script.statements, direction) == (("REMOVE TABLE note",), "down")


async def test_a_stamp_runs_nothing_and_is_told_from_an_upgrade(migrations: Migrations, folder: Path) -> None:
    write_notes(folder)
    await migrations.upgrade()
    await migrations.stamp(1)
    assert [(noted.number, noted.microseconds) for noted in await migrations.current()] == [(0, None), (1, None)]
    await migrations.stamp(0)
    assert [noted.number for noted in await migrations.current()] == [0]
    assert len(await migrations._run.ask(queried("SELECT * FROM note;"))) == 1  # its own statements ran once


async def test_a_schema_that_is_not_there_is_not_put_on_record(migrations: Migrations, folder: Path) -> None:
    write_notes(folder)
    await migrations.upgrade(0)
    with pytest.raises(ConfigurationError, match="has not got what 01 Notes makes: table note"):
        await migrations.stamp(1)
    assert [noted.number for noted in await migrations.current()] == [0]


async def test_a_stamp_of_base_takes_the_record_back_and_another_puts_it_there(migrations: Migrations) -> None:
    await migrations.upgrade()
    await migrations.stamp(BEFORE_00)
    assert await migrations.current() == ()
    with pytest.raises(ConfigurationError, match="somebody else's"):
        await migrations.verify()
    await migrations.stamp(0)
    assert await migrations.verify() == ()


async def test_an_edit_that_is_meant_can_be_stamped(migrations: Migrations, folder: Path) -> None:
    await migrations.upgrade()
    (folder / FIRST).write_text((folder / FIRST).read_text() + "\n-- harmless")
    await migrations.stamp(0)
    assert await migrations.check() == ()


def test_a_way_down_that_belongs_to_nothing_is_a_fault(folder: Path) -> None:
    (folder / NOTES_DOWN).write_text("REMOVE TABLE note;")
    with pytest.raises(ConfigurationError, match="takes nothing back"):
        read_scripts(folder)


def queried(text: str) -> Query:
    return Query(
        name="q", description="", text=text, single=True, changes=False, in_turn=False, repeatable=False, volatile=False
    )
