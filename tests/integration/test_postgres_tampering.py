"""What the owner of the machine changes in the log by hand, as superuser with every trigger off, shows in a verification."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mer.core.chain import Fault, Verifier
from mer.core.identifiers import uuid7
from mer.core.records import LeaseId
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer.dal.postgres.store import PostgresStore
from tests.support import records
from tests.support.postgres import PostgresServer, tampering


@pytest.fixture
def database(postgres_server: PostgresServer) -> EmbeddedPostgres:
    return postgres_server.wiped()


@pytest.fixture
async def store(database: EmbeddedPostgres) -> AsyncIterator[PostgresStore]:
    """A store with six records: two runs, begun and ended, and two changes."""
    opened = PostgresStore(database.driver())
    await opened.open()
    chain, lease = await opened.access_log.chain(), LeaseId(uuid7())
    for _ in range(2):
        of = records.invocation()
        await opened.access_log.append(
            [records.started(chain, of, lease=lease), records.finished(chain, of, lease=lease)]
        )
        await opened.access_log.append([records.change(chain)])
    yield opened
    await opened.close()


async def faults(store: PostgresStore) -> list[Fault]:
    verifier = Verifier(chain=await store.access_log.chain())
    async for chunk in store.access_log.scan():
        verifier.feed(chunk)
    return verifier.finish()


async def test_an_untouched_log_verifies(store: PostgresStore) -> None:
    assert await faults(store) == []


SWAP = """UPDATE mer.access SET body = CASE seq WHEN 2 THEN (SELECT body FROM mer.access WHERE seq = 5)
    ELSE (SELECT body FROM mer.access WHERE seq = 2) END WHERE seq IN (2, 5)"""
INSERTED = """INSERT INTO mer.access (seq, previous, digest, body, kind, at)
    SELECT 7, digest, repeat('0', 64), body, kind, at FROM mer.access WHERE seq = 6"""

HANDS = {
    "a changed body": ("UPDATE mer.access SET body = replace(body, 'ada', 'eve') WHERE seq = 3", {3}),
    "a changed column": ("UPDATE mer.access SET actor = 'eve' WHERE seq = 3", {3}),
    "a changed time": ("UPDATE mer.access SET at = at + interval '1 microsecond' WHERE seq = 4", {4}),
    "a removed row": ("DELETE FROM mer.access WHERE seq = 3", {3}),
    "swapped bodies": (SWAP, {2, 5}),
    "an inserted row": (INSERTED, {7}),
    "a changed digest": ("UPDATE mer.access SET digest = repeat('0', 64) WHERE seq = 2", {2, 3}),
}


@pytest.mark.parametrize(("statement", "named"), HANDS.values(), ids=HANDS)
async def test_a_hand_in_the_database_shows_at_its_record(
    database: EmbeddedPostgres, store: PostgresStore, statement: str, named: set[int]
) -> None:
    with tampering(database) as connection:
        connection.execute(statement)
    assert {fault.seq for fault in await faults(store)} == named
