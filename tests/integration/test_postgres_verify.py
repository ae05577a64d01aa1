"""`log verify` on PostgreSQL: by one process or several the same is found; whatever cuts it off leaves nothing behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import pytest

from mer.audit.jobs import verify_in_jobs
from mer.audit.log import AuditLog
from mer.core.chain import EMPTY, Checkpoint, Fault, Head, Verifier
from mer.core.errors import AuthenticationFailed, ConcurrentChange, DatabaseUnreachable
from mer.core.identifiers import uuid7
from mer.core.records import LeaseId
from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.elsewhere import told
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer.dal.postgres.store import PostgresStore
from tests.support import records
from tests.support.postgres import PostgresServer, tampering

RECORDS = 60
"""In three parts: 1 to 20, 21 to 40, 41 to 60."""

CONNECTED = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'mer_driver' AND datname = current_database()"


@pytest.fixture
def database(postgres_server: PostgresServer) -> EmbeddedPostgres:
    return postgres_server.wiped()


@pytest.fixture
async def store(database: EmbeddedPostgres) -> AsyncIterator[PostgresStore]:
    opened = PostgresStore(database.driver())
    await opened.open()
    await append(opened, RECORDS)
    yield opened
    await opened.close()


async def append(store: PostgresStore, count: int) -> None:
    chain, lease = await store.access_log.chain(), LeaseId(uuid7())
    for _ in range(0, count, 2000):
        invocations = [records.invocation() for _ in range(min(count, 2000) // 2)]
        await store.access_log.append(
            [make(chain, of, lease=lease) for of in invocations for make in (records.started, records.finished)]
        )


Found = tuple[list[Fault], Head, int]


async def by_one(store: PostgresStore, checkpoint: Checkpoint | None = None) -> Found:
    verifier = Verifier(chain=await store.access_log.chain(), checkpoint=checkpoint)
    await store.access_log.feed(verifier)
    return verifier.finish(), verifier.head, verifier.records


async def by_three(store: PostgresStore, checkpoint: Checkpoint | None = None) -> Found:
    chain = await store.access_log.chain()
    verifier = Verifier(chain=chain, checkpoint=checkpoint)
    assert store.elsewhere is not None
    await verify_in_jobs(
        store.access_log, verifier, elsewhere=store.elsewhere, jobs=3, chain=chain, checkpoint=checkpoint,
        progress=None, least=1,
    )  # fmt: skip
    return verifier.finish(), verifier.head, verifier.records


async def until_connected(database: EmbeddedPostgres, *, most: int) -> None:
    with psycopg.connect(conninfo(database.superuser()), autocommit=True) as connection:
        async with asyncio.timeout(10):
            while connection.execute(CONNECTED).fetchone()[0] > most:  # type: ignore[index]  # noqa: ASYNC110
                await asyncio.sleep(0.02)


BELOW = """INSERT INTO mer.access (seq, previous, digest, body, kind, at)
    SELECT 0, previous, digest, body, kind, at FROM mer.access WHERE seq = 1"""

HANDS = {
    "nothing": ("SELECT 1", set()),
    "a body in each part": ("UPDATE mer.access SET body = replace(body, 'ada', 'eve') WHERE seq IN (7, 27, 47)", {7, 27, 47}),
    "the last before a border": ("UPDATE mer.access SET actor = 'eve' WHERE seq = 20", {20}),
    "the first behind a border": ("UPDATE mer.access SET model = 'eve' WHERE seq = 21", {21}),
    "the digest before a border": ("UPDATE mer.access SET digest = repeat('0', 64) WHERE seq = 20", {20, 21}),
    "the record at a border gone": ("DELETE FROM mer.access WHERE seq = 20", {20}),
    "records around a border gone": ("DELETE FROM mer.access WHERE seq BETWEEN 18 AND 23", {18}),
    "the first gone": ("DELETE FROM mer.access WHERE seq = 1", {1}),
    "a record below the first": (BELOW, {0, 1}),
    "a record far behind": ("UPDATE mer.access SET seq = 9223372036854775807 WHERE seq = 60", {60, 2**63 - 1}),
    "a record behind a gap": ("UPDATE mer.access SET seq = 1000000 WHERE seq = 60", {60, 10**6}),
    "another time before Christ": ("UPDATE mer.access SET at = '0044-03-15 BC' WHERE seq = 5", {5}),
    "the end of time": ("UPDATE mer.access SET at = 'infinity' WHERE seq = 5", {5}),
    "more faults than are kept": ("UPDATE mer.access SET actor = 'eve', body = body || ' '", set(range(1, 61))),
}  # fmt: skip


@pytest.mark.parametrize(("statement", "named"), HANDS.values(), ids=HANDS)
async def test_one_process_and_three_find_the_same(
    database: EmbeddedPostgres, store: PostgresStore, statement: str, named: set[int]
) -> None:
    with tampering(database) as connection:
        connection.execute(statement)
    alone = await by_one(store)
    assert {fault.seq for fault in alone[0]} <= named
    assert bool(alone[0]) is bool(named)
    assert await by_three(store) == alone


@pytest.mark.parametrize("count", [RECORDS, 0])
async def test_a_log_too_short_for_parts_is_verified_by_this_process(database: EmbeddedPostgres, count: int) -> None:
    opened = PostgresStore(database.driver())
    await opened.open()
    await append(opened, count)
    found = await AuditLog(opened).verify(jobs=3)
    assert (found.sound, found.records) == (True, count)
    await opened.close()


@pytest.mark.parametrize("seq", [20, 21, 61])
@pytest.mark.parametrize("hand", ["nothing", "a wrong digest", "another chain", "its record gone"])
async def test_a_checkpoint_anywhere_is_met_by_three_as_by_one(
    database: EmbeddedPostgres, store: PostgresStore, seq: int, hand: str
) -> None:
    digest = (await store.access_log.get(seq)).digest if seq <= RECORDS else "0" * 64
    checkpoint = Checkpoint(chain=await store.access_log.chain(), seq=seq, digest=digest)
    match hand:
        case "a wrong digest":
            checkpoint = replace(checkpoint, digest="f" * 64)
        case "another chain":
            checkpoint = replace(checkpoint, chain=str(uuid7()))
        case "its record gone":
            with tampering(database) as connection:
                connection.execute("DELETE FROM mer.access WHERE seq = %s", (seq,))
    alone = await by_one(store, checkpoint)
    assert bool(alone[0]) is (hand != "nothing" or seq > RECORDS)
    assert await by_three(store, checkpoint) == alone


async def test_it_holds_while_others_append(store: PostgresStore) -> None:
    await append(store, 12_000)
    writing = asyncio.create_task(append(store, 12_000))
    faults, _, count = await by_one(store)
    await writing
    assert faults == []
    assert count >= 12_000 + RECORDS
    assert (await by_three(store))[0] == []


async def test_a_connection_that_is_lost_on_the_way_is_made_again(
    database: EmbeddedPostgres, store: PostgresStore
) -> None:
    await append(store, 12_000)
    verifier = Verifier(chain=await store.access_log.chain())

    def cut(done: int) -> None:
        if done < 12_000:
            with psycopg.connect(conninfo(database.superuser()), autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'mer_driver'"
                )

    await store.access_log.feed(verifier, progress=cut)
    assert (verifier.finish(), verifier.records) == ([], 12_000 + RECORDS)


@pytest.mark.parametrize("verify", [by_one, by_three])
async def test_who_is_cancelled_leaves_no_connection_and_no_thread(
    database: EmbeddedPostgres, store: PostgresStore, verify
) -> None:
    with tampering(database) as connection:
        threads = threading.active_count()
        with connection.transaction():
            connection.execute("LOCK TABLE mer.access IN ACCESS EXCLUSIVE MODE")
            verifying = asyncio.create_task(verify(store))
            await asyncio.sleep(0.5)
            verifying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(verifying, 10)
    assert threading.active_count() == threads
    await store.close()
    await until_connected(database, most=0)


async def test_a_caller_who_leaves_in_the_middle_of_a_copy_closes_its_connection(
    database: EmbeddedPostgres, store: PostgresStore
) -> None:
    await append(store, 4000)
    copied = store._connections.copy("COPY (SELECT body FROM mer.access) TO STDOUT (FORMAT binary)")
    assert await anext(copied)
    await copied.aclose()
    await until_connected(database, most=1)
    assert (await by_one(store))[0] == []


async def test_a_server_that_does_not_answer_is_unreachable(database: EmbeddedPostgres, store: PostgresStore) -> None:
    hasty = PostgresStore(database.driver(statement_seconds=0.3))
    await hasty.open()
    with tampering(database) as connection, connection.transaction():
        verifier = Verifier(chain=await store.access_log.chain())
        connection.execute("LOCK TABLE mer.access IN ACCESS EXCLUSIVE MODE")
        with pytest.raises((ConcurrentChange, DatabaseUnreachable)):
            await hasty.access_log.feed(verifier)
    await hasty.close()
    assert verifier.head == EMPTY


async def test_an_error_of_a_process_is_the_command_s_own(database: EmbeddedPostgres, store: PostgresStore) -> None:
    login = database.driver()
    wrong = told(replace(login, parameters={**login.parameters, "password": "wrong"}))
    verifier = Verifier(chain=(chain := await store.access_log.chain()))
    with pytest.raises(AuthenticationFailed):
        await verify_in_jobs(
            store.access_log, verifier, elsewhere=wrong, jobs=2, chain=chain, checkpoint=None, progress=None, least=1
        )
