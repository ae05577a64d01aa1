"""One process at a time: who waits, for how long, and what is said when it was in vain."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mer.core.errors import (
    ConfigurationError,
    DatabaseLocked,
    DatabaseUnreachable,
    FolderUnsafe,
    InputInvalid,
    MerError,
)
from mer.dal.surreal import SurrealStore
from mer.dal.surreal.address import parse_address
from mer.dal.surreal.embedded import EmbeddedConnection
from tests.support import records
from tests.support.surreal import migrated, process
from tests.support.surreal_process import ROOT


@pytest.fixture
async def url(tmp_path: Path) -> str:
    return await migrated(tmp_path / "registry")


async def held(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 30) == b"held\n"


async def test_a_held_database_is_locked_and_its_holder_named(url: str) -> None:
    async with process("hold", url) as holder:
        await held(holder)
        store = SurrealStore(url, lock_seconds=0.2)
        with pytest.raises(DatabaseLocked, match=rf"process {holder.pid} \(.*surreal_process hold"):
            await store.open()
        await store.close()


async def test_a_second_one_who_is_refused_can_name_the_holder_too(url: str) -> None:
    # the engine empties its lock file when a try to open fails, so the pid in it is gone by then
    async with process("hold", url) as holder:
        await held(holder)
        for _ in range(2):
            store = SurrealStore(url, lock_seconds=0.05)
            with pytest.raises(DatabaseLocked, match=f"process {holder.pid}"):
                await store.open()
            await store.close()


async def test_waiting_for_a_lock_is_bounded(url: str) -> None:
    async with process("hold", url) as holder:
        await held(holder)
        store = SurrealStore(url, lock_seconds=0.3)
        began = time.monotonic()
        with pytest.raises(DatabaseLocked):
            await store.open()
        assert 0.3 <= time.monotonic() - began < 3
        await store.close()


async def test_who_waits_goes_on_when_the_holder_ends(url: str) -> None:
    async with process("hold", url) as holder:
        await held(holder)
        store = SurrealStore(url, lock_seconds=30)
        opening = asyncio.create_task(store.open())
        await asyncio.sleep(0.2)
        assert not opening.done()
        holder.kill()
        await asyncio.wait_for(opening, 30)
        await store.close()


async def test_an_idle_store_lets_others_in(url: str) -> None:
    first, second = SurrealStore(url, idle_seconds=0.01), SurrealStore(url, lock_seconds=10)
    await first.open()
    await second.open()  # in the same process the engine locks just as well
    await second.close()
    await first.models.add(records.model("digits"))
    await first.close()


async def test_a_unit_of_work_is_not_idle(url: str) -> None:
    first, second = SurrealStore(url, idle_seconds=0.01), SurrealStore(url, lock_seconds=0.2)
    await first.open()
    async with first.transaction() as inside:
        await inside.models.add(records.model("digits"))
        await asyncio.sleep(0.1)
        with pytest.raises(DatabaseLocked):
            await second.open()
    await first.close()
    await second.open()
    assert (await second.models.get("digits")).name == "digits"
    await second.close()


async def test_a_store_goes_on_after_it_was_idle(url: str) -> None:
    store = SurrealStore(url, idle_seconds=0.01)
    await store.open()
    chain = await store.access_log.chain()
    for number in range(3):
        await store.access_log.append([records.change(chain, number=number)])
        await asyncio.sleep(0.1)
    assert (await store.access_log.head()).seq == 3
    await store.close()


@pytest.mark.parametrize("milliseconds", [1, 4, 8, 16])
async def test_who_gives_up_while_the_database_opens_does_not_keep_it_locked(url: str, milliseconds: int) -> None:
    store = SurrealStore(url, lock_seconds=10)
    opening = asyncio.create_task(store.open())
    await asyncio.sleep(milliseconds / 1000)
    opening.cancel()
    await asyncio.wait([opening])
    other = SurrealStore(url, lock_seconds=10)
    await store.close()
    await other.open()
    await other.close()


async def test_two_processes_that_write_by_turns_lose_nothing(url: str) -> None:
    async with process("write", url, "8") as one, process("write", url, "8") as other:
        outputs = await asyncio.wait_for(asyncio.gather(one.communicate(), other.communicate()), 60)
    assert [errors.decode() for _, errors in outputs] == ["", ""]
    acknowledged = dict(line.split() for output, _ in outputs for line in output.decode().splitlines())
    store = SurrealStore(url)
    await store.open()
    found = {str(record.seq): record.digest async for chunk in store.access_log.scan() for record in chunk}
    await store.close()
    assert len(acknowledged) == 16
    assert found == acknowledged


async def test_a_killed_writer_loses_no_acknowledged_record(url: str) -> None:
    acknowledged: dict[int, str] = {}
    async with process("pour", url, "100000") as writer:
        assert writer.stdout is not None
        while len(acknowledged) < 60:
            seq, digest = (await asyncio.wait_for(writer.stdout.readline(), 30)).split()
            acknowledged[int(seq)] = digest.decode()
        writer.kill()
        for line in (await writer.stdout.read()).splitlines(keepends=True):
            if line.endswith(b"\n"):
                seq, digest = line.split()
                acknowledged[int(seq)] = digest.decode()
    store = SurrealStore(url)
    await store.open()
    found = {record.seq: str(record.digest) async for chunk in store.access_log.scan() for record in chunk}
    assert found.items() >= acknowledged.items()
    assert list(found) == list(range(1, (await store.access_log.head()).seq + 1))
    await store.close()


async def test_a_process_that_ends_right_after_closing_is_not_aborted(url: str) -> None:
    # without the pause in close(), the engine's threads aborted 12 of 100 such processes
    for _ in range(10):
        async with process("pour", url, "5") as writer:
            _, errors = await asyncio.wait_for(writer.communicate(), 60)
        assert (writer.returncode, errors) == (0, b"")


async def test_the_folder_and_its_files_are_ours_alone(url: str, tmp_path: Path) -> None:
    store = SurrealStore(url)
    await store.open()
    await store.models.add(records.model("digits"))
    await store.close()
    folder = tmp_path / "registry"
    paths = [folder, *folder.rglob("*")]
    assert len(paths) > 3
    assert [path.name for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


async def test_a_folder_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o755)
    store = SurrealStore(f"surrealkv://{folder}")
    with pytest.raises(FolderUnsafe, match="open to others"):
        await store.open()
    await store.close()


@pytest.mark.parametrize("url", ["surrealkv://", "surrealkv:///a?versioned=true", "mem://x", "rocksdb:///a", "x"])
async def test_an_url_that_cannot_be_opened_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        SurrealStore(url)


async def test_a_folder_with_a_space_and_other_letters_works(tmp_path: Path) -> None:
    url = await migrated(tmp_path / "größe %20 x")
    store = SurrealStore(url)
    await store.open()
    await store.close()
    assert (tmp_path / "größe %20 x" / "LOCK").exists()


async def test_a_damaged_database_is_unreachable_with_the_engines_words(url: str, tmp_path: Path) -> None:
    for path in (tmp_path / "registry" / "manifest").iterdir():
        path.write_bytes(b"garbage")
    store = SurrealStore(url)
    with pytest.raises(DatabaseUnreachable, match="cannot be opened"):
        await store.open()
    await store.close()


async def test_an_integer_beyond_64_bits_is_refused(url: str) -> None:
    store = SurrealStore(url)
    await store.open()
    with pytest.raises(InputInvalid, match="64-bit"):
        await store.servers.add(records.server("gpu", parameters={"port": 2**64}))
    await store.close()


async def test_an_engine_that_fails_is_told_with_its_own_words(url: str) -> None:
    store = SurrealStore(url)
    await store.open()
    connection = store._connection
    assert isinstance(connection, EmbeddedConnection)
    assert connection._engine
    await connection._engine.close()
    with pytest.raises(DatabaseUnreachable, match="connection is closed"):
        await store.models.page()
    with pytest.raises(DatabaseUnreachable, match="connection is closed"):
        await store.describe()
    await store.close()


async def test_a_script_that_cannot_be_read_is_a_bug_of_ours_and_told(url: str) -> None:
    connection = EmbeddedConnection(parse_address(url), statement_seconds=5, lock_seconds=5, idle_seconds=5)
    with pytest.raises(MerError, match="refused a script: Parse error"):
        await connection.run("SELCT 1", {})
    await connection.close()


COLD = """
import asyncio, sys
from mer.dal.surreal import SurrealStore
from tests.support import records
async def main():
    store = SurrealStore(sys.argv[1])
    await store.open()
    await store.models.page()
    await store.access_log.append([records.change(await store.access_log.chain())])
    await store.close()
asyncio.run(main())
print("surrealdb" in sys.modules)
"""


def test_who_opens_a_folder_does_not_wait_for_the_client_library(tmp_path: Path) -> None:
    url = asyncio.run(migrated(tmp_path / "registry"))
    environ = {"PATH": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", COLD, url], env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False\n"
