"""Many processes append to one chain on a team's PostgreSQL: no gap, no fork, and nothing that was acknowledged is lost,
though one of them is killed, the server restarts under them, or its disk is full."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mer.core.chain import Verifier
from mer.core.errors import DatabaseUnreachable
from mer.core.identifiers import uuid7
from mer.core.records import AccessRecord, LeaseId
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer.dal.postgres.store import PostgresStore
from tests.support import postgres_server as team
from tests.support import records
from tests.support.postgres import WIPED
from tests.support.postgres_server import TeamServer

ROOT = Path(__file__).parents[2]

PROCESSES, CALLERS = 4, 8

SECONDS = 120
"""Of all writers together: they take a few on an idle machine."""

pytestmark = pytest.mark.slow


@pytest.fixture
def server(team_server: TeamServer) -> Iterator[TeamServer]:
    """The team's server; whatever a test did, it runs for the next one."""
    yield team_server
    if not team_server.runs():
        team_server.start()


class Appender:
    """One process that appends, and what it was told is there."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.told: list[tuple[int, str, str, str]] = []

    @classmethod
    async def start(cls, server: TeamServer, runs: int) -> Appender:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.appender", str(CALLERS), str(runs)),
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **server.environment(WIPED)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        made = cls(process)
        assert process.stdout
        assert await process.stdout.readline() == b"ready\n"
        return made

    async def run(self) -> int:
        """Have it begin, listen to its end, and return how it ended."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(b"go\n")
        async for line in self.process.stdout:
            seq, digest, invocation, kind = line.decode().split()
            self.told.append((int(seq), digest, invocation, kind))
        return await self.process.wait()


async def write(
    server: TeamServer, runs: Sequence[int], *, meanwhile: Callable[[list[Appender]], Awaitable[None]] | None = None
) -> tuple[list[Appender], list[int]]:
    """Have a process for each of `runs` append to an empty log, with something happening meanwhile; return how they ended."""
    server.wiped()
    appenders = await asyncio.gather(*(Appender.start(server, number) for number in runs))
    try:
        async with asyncio.timeout(SECONDS):
            running = asyncio.gather(*(appender.run() for appender in appenders))
            if meanwhile:
                await meanwhile(appenders)
            return appenders, await running
    finally:
        for appender in appenders:
            if appender.process.returncode is None:
                appender.process.kill()
                await appender.process.wait()


async def until_told(appenders: list[Appender], number: int) -> None:
    """Wait until that many records were acknowledged; where all have ended before, the test has something to say."""
    while sum(len(appender.told) for appender in appenders) < number:  # other processes tell
        if all(appender.process.returncode is not None for appender in appenders):
            return
        await asyncio.sleep(0.01)


async def whole_log(login: ConnectionSettings) -> list[AccessRecord]:
    """Return every record, after the chain was verified."""
    store = PostgresStore(login)
    await store.open()
    try:
        verifier, found = Verifier(chain=await store.access_log.chain()), list[AccessRecord]()
        async for some in store.access_log.scan():
            verifier.feed(some)
            found += some
        assert verifier.finish() == []
        return found
    finally:
        await store.close()


async def check(server: TeamServer, appenders: list[Appender]) -> list[AccessRecord]:
    """Make sure that the log is one chain in which every acknowledged record stands at its place, and none twice."""
    found = await whole_log(server.login(database=WIPED))
    assert [record.seq for record in found] == list(range(1, len(found) + 1))
    there = {record.seq: (record.digest, record.columns["invocation"], record.columns["kind"]) for record in found}
    for appender in appenders:
        assert all(there.get(seq) == (digest, of, kind) for seq, digest, of, kind in appender.told)
    told = Counter((record.columns["invocation"], record.columns["kind"]) for record in found)
    assert set(told.values()) == {1}
    return found


async def test_4_processes_of_8_callers_append_20000_records_to_one_chain(server: TeamServer) -> None:
    appenders, ended = await write(server, [20_000 // (PROCESSES * CALLERS * 2) + 1] * PROCESSES)
    assert ended == [0] * PROCESSES
    found = await check(server, appenders)
    assert len(found) == sum(len(appender.told) for appender in appenders) == 20_032


async def test_one_of_them_that_is_killed_takes_no_acknowledged_record_with_it(server: TeamServer) -> None:
    async def kill(appenders: list[Appender]) -> None:
        await until_told(appenders[:1], 200)
        appenders[0].process.kill()

    more = 5000  # than it can make while the pipe to this process is full of what it was told
    appenders, ended = await write(server, [more, 100, 100, 100], meanwhile=kill)
    assert ended == [-9, 0, 0, 0]
    found = await check(server, appenders)
    assert 200 <= len(appenders[0].told) < 2 * more * CALLERS
    # what it was not told of any more: one group at most
    assert 0 <= len(found) - sum(len(appender.told) for appender in appenders) <= CALLERS


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_server_that_restarts_under_them_loses_and_doubles_nothing(server: TeamServer, mode: str) -> None:
    async def restart(appenders: list[Appender]) -> None:
        for told in (800, 3000):
            await until_told(appenders, told)
            await asyncio.to_thread(server.restart, mode)

    appenders, ended = await write(server, [100] * PROCESSES, meanwhile=restart)
    assert ended == [0] * PROCESSES
    found = await check(server, appenders)
    assert len(found) == sum(len(appender.told) for appender in appenders) == PROCESSES * CALLERS * 200


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """Give a folder on a disk of that size, which only root can make."""
    if os.geteuid():
        pytest.skip("only root can mount a small disk")
    folder = Path(tempfile.mkdtemp(prefix="mer-disk-"))
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0711", "tmpfs", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"no small disk can be mounted: {done.stderr.strip()}")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
    finally:
        folder.rmdir()


@pytest.mark.parametrize("full", ["tables", "tables and write-ahead log"])
async def test_a_full_disk_loses_nothing_that_was_acknowledged_and_is_told_as_such(full: str) -> None:
    if team.programs() is None:
        pytest.skip(team.MISSING)
    small = {"min_wal_size": "2MB", "max_wal_size": "2MB", "autovacuum": "off"}
    with small_disk(120) as disk, folder_for_all() as elsewhere:
        log = ("--waldir", str(elsewhere / "wal")) if full == "tables" else ()
        with team.team_server(parent=disk, initdb=("--wal-segsize=1", *log), **small) as server:
            await fill(server, disk, restarts=full != "tables")


@contextmanager
def folder_for_all() -> Iterator[Path]:
    """Give a folder in which the server's user, too, can make one."""
    folder = Path(tempfile.mkdtemp(prefix="mer-wal-"))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


async def fill(server: TeamServer, disk: Path, *, restarts: bool) -> None:
    login = replace(server.login(database=WIPED), reconnect_seconds=1)
    store = PostgresStore(login)
    await store.open()
    chain, lease = await store.access_log.chain(), LeaseId(uuid7())
    told: list[tuple[int, str]] = []

    async def append() -> None:
        body = records.started(chain, records.invocation(), lease=lease, text=os.urandom(8000).hex())
        (place,) = await store.access_log.append([body])
        told.append((place.seq, place.digest))

    async def append_many(most: int) -> None:
        for _ in range(most):
            await append()

    await append()
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        space = os.statvfs(disk)
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - (4 << 20))
    with pytest.raises(DatabaseUnreachable) as refused:
        await append_many(2000)
    assert refused.value.exit_code == 69
    if not restarts:  # a server that cannot write its log ends, and can say nothing any more
        assert "disk" in refused.value.message
        assert "space" in (refused.value.hint or "")
    assert len(told) > 10
    with pytest.raises(DatabaseUnreachable):
        await append_many(100)  # what is left of a page may still hold some
    ballast.unlink()
    if restarts:
        await asyncio.to_thread(server.stop, "immediate")
        await asyncio.to_thread(server.start)
    await append()
    await store.close()
    found = await whole_log(server.login(database=WIPED))
    there = {record.seq: record.digest for record in found}
    assert all(there.get(seq) == digest for seq, digest in told)
    assert 0 <= len(found) - len(told) <= 101
