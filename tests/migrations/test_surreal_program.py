"""`mer-migrate` on SurrealDB, as a program: two at once, cut off at each statement by kill -9, and against a server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mer.core.errors import ConfigurationError, DatabaseUnreachable, NotMigrated
from mer.core.identifiers import uuid7
from mer.core.records import LeaseId
from mer.dal.surreal import SurrealStore
from mer.dal.surreal.login import Login, Role
from mer.dal.surreal.migrations import open_migrations
from mer.dal.surreal.scripts import scripts_folder
from tests.support import records
from tests.support.surreal import by_hand, migrated
from tests.support.surreal_servers import AUDITOR, DRIVER, OWNER, REPOSITORY, SurrealServer, running
from tests.support.surreal_servers import by_hand as by_login

NOTES = """\
DEFINE TABLE note SCHEMAFULL;
DEFINE FIELD text ON note TYPE string;
CREATE note:1 SET text = 'one';
DEFINE INDEX note_text ON note FIELDS text UNIQUE;
UPDATE note:1 SET text = 'another';
"""


def copied(tmp_path: Path) -> Path:
    """Return a copy of the program's own scripts."""
    ignored = shutil.ignore_patterns("*.py*", "__*")
    return Path(shutil.copytree(scripts_folder(), tmp_path / "scripts", ignore=ignored))


def environment(tmp_path: Path, **database: str) -> dict[str, str]:
    state = tmp_path / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    return {"PATH": os.environ["PATH"], "MER_STATE_FOLDER": str(state), **database}


def started(*arguments: str, environ: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mer_migrations", *arguments],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def program(*arguments: str, environ: dict[str, str], code: int = 0) -> str:
    process = started(*arguments, environ=environ)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, (out, err)
    return out if code == 0 else err


@pytest.fixture(params=["surrealkv", "surreal-ws"])
def environ(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """What leads to a database that nobody has migrated."""
    if request.param == "surrealkv":
        return environment(tmp_path, DB_CONNECTION_URL=f"surrealkv://{tmp_path}/registry")
    server: SurrealServer = request.getfixturevalue("surreal_server")
    return environment(tmp_path, **server.environment(server.url(f"p{uuid7().replace('-', '')}")))


def test_up_history_down_and_up_again(environ: dict[str, str]) -> None:
    program("check", environ=environ, code=78)
    applied = json.loads(program("upgrade", "--json", environ=environ))
    assert [each["number"] for each in applied["applied"]] == [0]
    program("check", environ=environ)
    (noted,) = json.loads(program("history", "--json", environ=environ))["applied"]
    assert (noted["number"], noted["edited"]) == (0, False)
    assert "Only a backup brings it back" in program("downgrade", "--to", "base", environ=environ, code=2)
    program("downgrade", "--to", "base", "--yes", environ=environ)
    assert json.loads(program("current", "--json", environ=environ))["current"] is None
    program("upgrade", environ=environ)
    program("stamp", "00", "--yes", environ=environ)
    (noted,) = json.loads(program("history", "--json", environ=environ))["applied"]
    assert noted["microseconds"] is None
    assert "REMOVE TABLE access_record" in program("plan", "--to", "base", environ=environ)


def test_a_stamp_of_base_takes_the_record_back_and_leaves_the_schema(environ: dict[str, str]) -> None:
    program("upgrade", environ=environ)
    assert "--yes" in program("stamp", "base", environ=environ, code=2)
    program("stamp", "base", "--yes", environ=environ)
    assert json.loads(program("current", "--json", environ=environ))["current"] is None
    told = program("upgrade", environ=environ, code=78)
    assert "somebody else's tables" in told
    assert "mer-migrate stamp" in told
    program("stamp", "00", "--yes", environ=environ)
    assert json.loads(program("current", "--json", environ=environ))["current"] == 0
    assert json.loads(program("upgrade", "--json", environ=environ))["applied"] == []


def test_two_at_once_run_each_script_once(environ: dict[str, str]) -> None:
    both = [started("upgrade", "--json", environ=environ) for _ in range(2)]
    told = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert sorted(len(json.loads(out)["applied"]) for out, _ in told) == [0, 1]


def test_a_database_of_something_else_is_left_alone(environ: dict[str, str]) -> None:
    url = environ["DB_CONNECTION_URL"]
    if url.startswith("surrealkv"):
        Path(url.removeprefix("surrealkv://")).mkdir(mode=0o700)
        asyncio.run(by_hand(url, "DEFINE TABLE theirs"))
    else:
        asyncio.run(by_login(url, "DEFINE TABLE theirs", login=OWNER))
    for command in ("check", "plan", "upgrade"):
        assert "somebody else's tables (theirs)" in program(command, environ=environ, code=78)


def test_the_logins_are_made_and_given_new_passwords(surreal_server: SurrealServer, tmp_path: Path) -> None:
    environ = environment(tmp_path, **surreal_server.environment(surreal_server.url("logins")))
    program("upgrade", environ=environ)
    url = environ["DB_CONNECTION_URL"]
    for login in (DRIVER, AUDITOR):
        asyncio.run(by_login(url, "RETURN 1", login=login))
    environ["DRIVER_DB_PASSWORD"] = "another"
    program("upgrade", environ=environ)
    asyncio.run(by_login(url, "RETURN 1", login=Login(role=Role.DRIVER, name=DRIVER.name, password="another")))
    program("upgrade", environ={**environ, "DRIVER_DB_USERNAME": ""}, code=78)
    program("upgrade", environ={**environ, "MIGRATIONS_DB_PASSWORD": "wrong"}, code=77)
    program(
        "upgrade",
        environ={**environ, "MIGRATIONS_DB_USERNAME": DRIVER.name, "MIGRATIONS_DB_PASSWORD": "another"},
        code=77,
    )


CUT = """
import asyncio, sys
from pathlib import Path
from mer.dal.surreal.migrations import open_migrations
async def main():
    async with open_migrations(sys.argv[1], lock_seconds=10, folder=Path(sys.argv[2])) as migrations:
        print("ready", flush=True)
        await migrations.upgrade()
asyncio.run(main())
"""


@pytest.mark.parametrize("statement", range(6))
async def test_a_migration_that_is_killed_leaves_the_database_as_it_was(tmp_path: Path, statement: int) -> None:
    """It stands still after that many of its statements, and is killed there."""
    url = await migrated(tmp_path / "registry")
    before = [each["result"] for each in await by_hand(url, "INFO FOR DB", "SELECT * FROM migrations")]
    folder = copied(tmp_path)
    lines = NOTES.splitlines(keepends=True)
    (folder / "01-Notes.surql").write_text("".join([*lines[:statement], "sleep(30s);\n", *lines[statement:]]))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CUT, url, str(folder)), cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    assert await process.stdout.readline() == b"ready\n"
    await asyncio.sleep(0.7)
    assert process.returncode is None
    process.kill()
    await process.communicate()
    assert [each["result"] for each in await by_hand(url, "INFO FOR DB", "SELECT * FROM migrations")] == before
    (folder / "01-Notes.surql").write_text(NOTES)
    async with open_migrations(url, lock_seconds=10, folder=folder) as migrations:
        assert [script.number for script in await migrations.upgrade()] == [1]


async def test_a_migration_whose_connection_is_lost_says_so_and_leaves_nothing_half(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    with running(SurrealServer(engine=f"surrealkv://{tmp_path}/data")) as server:
        url = await server.migrated()
        (before,) = await by_login(url, "INFO FOR DB", login=OWNER)
        (folder / "01-Notes.surql").write_text(NOTES + "sleep(30s);")
        async with open_migrations(url, login=OWNER, lock_seconds=10, folder=folder) as migrations:
            upgrading = asyncio.create_task(migrations.upgrade())
            await asyncio.sleep(0.7)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            with pytest.raises(DatabaseUnreachable, match=r"01-Notes\.surql had not happened"):
                await upgrading
        (after,) = await by_login(url, "INFO FOR DB", login=OWNER)
        assert after["result"] == before["result"]


async def test_a_failing_statement_on_a_server_is_told_as_in_a_folder(
    surreal_server: SurrealServer, tmp_path: Path
) -> None:
    folder = copied(tmp_path)
    url = await surreal_server.migrated()
    (folder / "01-Notes.surql").write_text(NOTES + "CREATE note:2 SET text = 5;")
    async with open_migrations(url, login=OWNER, lock_seconds=10, folder=folder) as migrations:
        with pytest.raises(
            ConfigurationError, match=r"01-Notes\.surql, statement 6 \(CREATE note:2 SET text = 5\).*`5`"
        ):
            await migrations.upgrade()
        assert len(await migrations.current()) == 1


async def test_a_newer_database_is_told(surreal_server: SurrealServer) -> None:
    url = await surreal_server.migrated()
    newer = "CREATE migrations:1 SET number = 1, name = 'x', checksum = 'x', applied_at = time::now()"
    await by_login(url, newer, login=OWNER)
    store = SurrealStore(url, login=DRIVER)
    with pytest.raises(NotMigrated, match="knows only 00"):
        await store.open()
    await store.close()


async def test_a_downgrade_takes_what_was_stored_and_the_next_upgrade_begins_anew(tmp_path: Path) -> None:
    url = await migrated(tmp_path / "registry")
    store = SurrealStore(url)
    await store.open()
    chain = await store.access_log.chain()
    await store.access_log.append([records.started(chain, records.invocation(), lease=LeaseId("l"))])
    await store.close()
    async with open_migrations(url, lock_seconds=10) as migrations:
        await migrations.downgrade(-1)
        await migrations.upgrade()
    await store.open()
    assert (await store.access_log.head()).seq == 0
    assert await store.access_log.chain() != chain
    await store.close()
