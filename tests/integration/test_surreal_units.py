"""Units of work on an engine that has no transactions over several calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from mer.core.errors import (
    AlreadyExists,
    ConcurrentChange,
    DatabaseUnreachable,
    InputInvalid,
    ModelNotFound,
    NotMigrated,
)
from mer.dal.surreal import SurrealStore
from mer.dal.surreal.address import parse_address
from mer.dal.surreal.embedded import EmbeddedConnection
from mer.dal.surreal.executor import Direct
from mer.dal.surreal.queries import Query
from mer.dal.surreal.unit import EAGER_STEPS
from tests.support import records


@pytest.fixture
async def store() -> AsyncIterator[SurrealStore]:
    opened = SurrealStore("mem://", lock_seconds=0.5)
    await opened.open()
    yield opened
    await opened.close()


async def test_a_name_that_is_taken_is_told_at_the_call(store: SurrealStore) -> None:
    async with store.transaction() as inside:
        await inside.models.add(records.model("digits"))
        with pytest.raises(AlreadyExists):
            await inside.models.add(records.model("digits"))
        await inside.models.add(records.model("other"))
    assert [model.name for model in (await store.models.page()).items] == ["digits", "other"]


@pytest.mark.parametrize("steps", [EAGER_STEPS - 1, EAGER_STEPS, EAGER_STEPS + 1])
async def test_a_long_unit_learns_at_its_end_at_the_latest(store: SurrealStore, steps: int) -> None:
    async def block() -> None:
        async with store.transaction() as inside:
            for number in range(steps):
                await inside.models.add(records.model(f"n{number}"))
            await inside.models.add(records.model("n0"))

    with pytest.raises(AlreadyExists, match="n0"):
        await block()
    assert (await store.models.page()).items == ()


async def test_a_question_in_a_long_unit_sees_what_was_told(store: SurrealStore) -> None:
    async with store.transaction() as inside:
        for number in range(EAGER_STEPS + 3):
            await inside.models.add(records.model(f"n{number:02}"))
        assert (await inside.models.get(f"n{EAGER_STEPS + 2}")).name == f"n{EAGER_STEPS + 2}"


async def test_what_was_read_and_then_changed_by_others_is_a_concurrent_change(store: SurrealStore) -> None:
    model, gpu = records.model("digits"), records.server("gpu")
    await store.models.add(model)

    async def block() -> None:
        async with store.transaction() as inside:
            await inside.models.get("digits")
            await store.models.replace(msgspec.structs.replace(model, description="changed"))
            await inside.servers.add(gpu)  # writes nothing that the other has written: write skew

    with pytest.raises(ConcurrentChange):
        await block()
    assert (await store.servers.page()).items == ()


async def test_what_was_not_there_and_then_added_by_others_is_a_concurrent_change(store: SurrealStore) -> None:
    async def block() -> None:
        async with store.transaction() as inside:
            with pytest.raises(ModelNotFound):
                await inside.models.get("digits")
            await store.models.add(records.model("digits"))
            await inside.servers.add(records.server("gpu"))

    with pytest.raises(ConcurrentChange):
        await block()


async def test_a_name_that_others_took_after_it_was_free_is_a_concurrent_change(store: SurrealStore) -> None:
    async def block() -> None:
        async with store.transaction() as inside:
            await inside.models.add(records.model("digits"))
            await store.models.add(records.model("digits"))

    with pytest.raises(ConcurrentChange):
        await block()


async def test_a_unit_that_only_reads_has_no_conflicts(store: SurrealStore) -> None:
    async with store.transaction() as inside:
        await inside.models.page()
        await store.models.add(records.model("digits"))


async def test_once_a_unit_appends_other_writers_wait_for_a_bounded_time(store: SurrealStore) -> None:
    chain = await store.access_log.chain()
    async with store.transaction() as inside:
        (place,) = await inside.access_log.append([records.change(chain)])
        with pytest.raises(ConcurrentChange, match=r"0\.5 s"):
            await store.models.add(records.model("digits"))
        with pytest.raises(ConcurrentChange):
            await store.access_log.append([records.change(chain)])
    assert await store.access_log.head() == place
    await store.models.add(records.model("digits"))


async def test_a_unit_that_is_cancelled_leaves_nothing_and_holds_nothing(store: SurrealStore) -> None:
    chain = await store.access_log.chain()
    appended = asyncio.Event()

    async def block() -> None:
        async with store.transaction() as inside:
            await inside.access_log.append([records.change(chain)])
            appended.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(block())
    await appended.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.models.add(records.model("digits"))
    assert (await store.access_log.head()).seq == 0


async def test_two_ids_and_leases_in_a_unit_keep_their_clock(store: SurrealStore) -> None:
    async with store.transaction() as inside:
        lease = records.lease()
        await inside.leases.acquire(lease)
        assert await inside.leases.renew(lease.id) is True
        await inside.leases.now()
    assert [held.id for held in await store.leases.all()] == [lease.id]


@pytest.fixture
async def connection() -> AsyncIterator[EmbeddedConnection]:
    made = EmbeddedConnection(parse_address("mem://"), statement_seconds=5, lock_seconds=5, idle_seconds=5)
    yield made
    await made.close()


def query(text: str) -> Query:
    return Query(
        name="test",
        description="",
        text=text,
        single=text.count(";") == 1,
        changes=True,
        in_turn=False,
        repeatable=False,
        volatile=False,
    )


async def test_a_conflict_that_the_engine_finds_is_a_concurrent_change(connection: EmbeddedConnection) -> None:
    await connection.run("DEFINE TABLE a; CREATE a:1 SET x = 0;", {})
    run = Direct(connection)
    slow = query("UPDATE a:1 SET x += 1; sleep(50ms);")
    outcomes = await asyncio.gather(*(run.ask_unguarded(slow) for _ in range(3)), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == [
        "Conflicted",
        "Conflicted",
        "NoneType",
    ]


async def test_a_failure_carries_the_databases_own_message(connection: EmbeddedConnection) -> None:
    await connection.run("DEFINE TABLE a; CREATE a:1 SET x = 0;", {})
    with pytest.raises(DatabaseUnreachable, match="Cannot perform addition"):
        await Direct(connection).ask(query("LET $x = (SELECT VALUE x FROM ONLY a:1); UPDATE a:1 SET x = [] + $x + {};"))


async def test_a_value_of_the_wrong_type_is_said_to_be_unfit(connection: EmbeddedConnection) -> None:
    await connection.run("DEFINE TABLE a SCHEMAFULL; DEFINE FIELD x ON a TYPE int;", {})
    with pytest.raises(InputInvalid, match="Expected `int`"):
        await Direct(connection).ask(query("CREATE a:1 SET x = 'text';"))


async def test_a_table_that_is_not_there_means_not_migrated(connection: EmbeddedConnection) -> None:
    with pytest.raises(NotMigrated):
        await Direct(connection).ask(query("SELECT * FROM model;"))


async def test_a_change_that_was_given_up_still_ends_before_the_next_begins() -> None:
    connection = EmbeddedConnection(parse_address("mem://"), statement_seconds=0.1, lock_seconds=5, idle_seconds=5)
    await connection.run("DEFINE TABLE a; CREATE a:1 SET x = 0;", {})
    run = Direct(connection)
    with pytest.raises(DatabaseUnreachable, match=r"within 0\.1 s"):
        await run.ask(query("LET $x = (SELECT VALUE x FROM ONLY a:1); sleep(400ms); UPDATE a:1 SET x = $x + 1;"))
    await run.ask(query("UPDATE a:1 SET x += 1;"))
    assert await run.ask(query("SELECT VALUE x FROM ONLY a:1;")) == 2
    await connection.close()


async def test_a_statement_that_takes_too_long_is_given_up() -> None:
    connection = EmbeddedConnection(parse_address("mem://"), statement_seconds=0.2, lock_seconds=5, idle_seconds=5)
    with pytest.raises(DatabaseUnreachable, match=r"within 0\.2 s"):
        await connection.run("sleep(1s);", {})
    await connection.close()
