"""What a verification on PostgreSQL reads: what the server joins, and what shows where the table's own rules were taken away."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
from psycopg.rows import dict_row

from mer.core.chain import Verifier
from mer.core.identifiers import uuid7
from mer.core.records import LeaseId
from mer.dal.postgres.access_log import COPIED_AT_ONCE
from mer.dal.postgres.blocks import BLOCK, MAX_BODY, Blocks
from mer.dal.postgres.columns import EPOCH, MICROSECOND
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer.dal.postgres.store import PostgresStore
from tests.support import records
from tests.support.blocks import Row, joined
from tests.support.postgres import PostgresServer, tampering

RUNS = 200


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[EmbeddedPostgres]:
    with postgres_server.copy() as database:
        yield database


@pytest.fixture
async def store(database: EmbeddedPostgres) -> AsyncIterator[PostgresStore]:
    """A store with 200 runs and 200 changes, in three blocks and a bit."""
    opened = PostgresStore(database.driver())
    await opened.open()
    await append(opened)
    yield opened
    await opened.close()


async def append(store: PostgresStore) -> None:
    chain, lease = await store.access_log.chain(), LeaseId(uuid7())
    bodies = []
    for _ in range(RUNS // 2):
        of = records.invocation()
        bodies += [records.started(chain, of, lease=lease), records.change(chain), records.change(chain)]
        bodies += [records.finished(chain, of, lease=lease)]
    await store.access_log.append(bodies)


async def faulty(store: PostgresStore) -> set[int]:
    verifier = Verifier(chain=await store.access_log.chain())
    await store.access_log.feed(verifier)
    return {fault.seq for fault in verifier.finish()}


ALL = """SELECT seq, previous, digest, body, kind, at, invocation::text, lease::text, actor, model, version, server, outcome,
    action FROM mer.access ORDER BY seq"""


async def test_the_server_joins_rows_as_blocks_have_them(database: EmbeddedPostgres, store: PostgresStore) -> None:
    """What the property tests take for the server's rows is what it sends, byte by byte; what is NULL or long included."""
    absent = uuid.uuid4()
    blocks = Blocks(chain=await store.access_log.chain(), absent=absent)
    with tampering(database) as connection:
        for name in ("previous", "digest", "body", "kind"):
            connection.execute(f"ALTER TABLE mer.access ALTER {name} DROP NOT NULL")
            connection.execute(f"UPDATE mer.access SET {name} = NULL WHERE seq IN (7, 8, 300)")
        connection.execute(f"UPDATE mer.access SET body = repeat('é', {MAX_BODY // 2}) WHERE seq = 9")
        connection.execute(f"UPDATE mer.access SET body = repeat('é', {MAX_BODY // 2}) || 'e' WHERE seq = 10")
        connection.execute("UPDATE mer.access SET actor = E'a\\né', version = -7, at = '0044-03-15 BC' WHERE seq = 11")
        connection.execute("DELETE FROM mer.access WHERE seq BETWEEN 130 AND 256")
        shown = connection.cursor(row_factory=dict_row).execute(ALL.replace("at,", "extract(epoch FROM at) AS at,"))
        rows = [{**row, "at": _count(row["at"])} for row in shown.fetchall()]
    sent = [row async for row in store._connections.copy(blocks.query(after=3, until=BLOCK * 3 + 5))]

    def within(after: int) -> list[Row]:
        return [row for row in rows if after < row["seq"] <= min(after + BLOCK, BLOCK * 3 + 5)]

    assert sent == [joined(within(after), absent=absent, after=after) for after in (3, 131, 259, 387)]
    assert [row["seq"] for row in within(131)] == [257, 258, 259]


def _count(seconds: object) -> int:
    since = EPOCH - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return int(seconds * 1_000_000) - since // MICROSECOND  # type: ignore[operator]


NULL = "ALTER TABLE mer.access ALTER {0} DROP NOT NULL; UPDATE mer.access SET {0} = NULL WHERE seq = 30"
TWICE = """ALTER TABLE mer.access DROP CONSTRAINT access_pkey CASCADE; ALTER TABLE mer.access DROP CONSTRAINT access_once;
    INSERT INTO mer.access SELECT * FROM mer.access WHERE seq = {0}"""
HANDS = {
    **{f"no {name}": (NULL.format(name), {30}) for name in ("body", "previous", "at", "kind")},
    "no digest": (NULL.format("digest"), {30, 31}),
    "one that is there twice": (TWICE.format(30), {30}),
    "the last of a block twice": (TWICE.format(BLOCK), {BLOCK}),
    "the first of a block twice": (TWICE.format(BLOCK + 1), {BLOCK + 1}),
    "a wider type": ("ALTER TABLE mer.access ALTER version TYPE bigint, ALTER actor TYPE varchar", set()),
    "no index and no statistics": ("ALTER TABLE mer.access DROP CONSTRAINT access_pkey CASCADE", set()),
}


@pytest.mark.parametrize(("statement", "named"), HANDS.values(), ids=HANDS)
async def test_where_the_table_s_rules_were_taken_away_faults_show_all_the_same(
    database: EmbeddedPostgres, store: PostgresStore, statement: str, named: set[int]
) -> None:
    with tampering(database) as connection:
        connection.execute(statement)
    assert await faulty(store) == named


async def test_records_with_long_bodies_are_verified_too(database: EmbeddedPostgres, store: PostgresStore) -> None:
    chain = await store.access_log.chain()
    await store.access_log.append([records.change(chain, note="é" * MAX_BODY) for _ in range(3)])
    await append(store)
    assert await faulty(store) == set()
    with tampering(database) as connection:
        connection.execute(f"UPDATE mer.access SET body = body || ' ' WHERE seq = {2 * RUNS + 2}")
    assert await faulty(store) == {2 * RUNS + 2}


async def test_faults_of_one_statement_are_found_in_their_order_and_the_blocks_between_them_hold(
    database: EmbeddedPostgres, store: PostgresStore
) -> None:
    while (await store.access_log.head()).seq < COPIED_AT_ONCE + 3 * BLOCK:
        for _ in range(5):
            await append(store)
    named = [5, BLOCK, BLOCK + 1, 9 * BLOCK, 9 * BLOCK + 1, COPIED_AT_ONCE, COPIED_AT_ONCE + 1]
    with tampering(database) as connection:
        connection.execute("UPDATE mer.access SET actor = 'eve' WHERE seq = ANY (%s)", (named,))
    verifier = Verifier(chain=await store.access_log.chain())
    await store.access_log.feed(verifier)
    assert [fault.seq for fault in verifier.finish()] == named
    assert verifier.head == await store.access_log.head()
    assert verifier.records == verifier.head.seq


async def test_a_log_is_verified_within_a_transaction(store: PostgresStore) -> None:
    async with store.transaction() as transaction:
        verifier = Verifier(chain=await transaction.access_log.chain())
        await transaction.access_log.feed(verifier)
        assert (verifier.finish(), verifier.records) == ([], 2 * RUNS)
        await transaction.access_log.feed(verifier)
        assert verifier.records == 2 * RUNS


@pytest.mark.parametrize("statistics", [True, False])
async def test_the_server_finds_blocks_by_the_index_and_compiles_nothing_for_them(
    database: EmbeddedPostgres, store: PostgresStore, statistics: bool
) -> None:
    """A server that knows little of the log, as after a restore, would else sort all the rest for each block."""
    query = Blocks(chain=await store.access_log.chain(), absent=uuid.uuid4()).query(after=0, until=COPIED_AT_ONCE)
    select = query.removeprefix("COPY (").removesuffix(") TO STDOUT (FORMAT binary)")
    with tampering(database) as connection:
        # as many as are felt
        connection.execute("INSERT INTO mer.access SELECT seq + 1000 * n, previous, digest, body, 'started', at"
                           " FROM mer.access, generate_series(1, 250) AS n WHERE seq <= 400")  # fmt: skip
        connection.execute("ANALYZE mer.access" if statistics else "SELECT 1")
        plan = connection.execute("EXPLAIN (FORMAT JSON) " + select).fetchone()[0][0]["Plan"]  # type: ignore[index]
    assert "access_pkey" in str(plan)
    assert "Sort" not in str(plan)
    assert plan["Total Cost"] < 100_000  # from there on a server compiles: jit_above_cost
