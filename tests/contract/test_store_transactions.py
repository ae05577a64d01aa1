"""Transactions: all or nothing, own writes seen, nothing of others' lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec
import pytest

from mer.core.chain import EMPTY
from mer.core.errors import AlreadyExists, ConcurrentChange, ModelNotFound, VersionNotFound
from mer.core.identifiers import uuid7
from mer.core.records import LeaseId, Model
from mer.dal.base import SCHEMA, Store
from tests.support import records
from tests.support.stores import Database

TRIES = 50
"""Of a block that meets ConcurrentChange: far more than writers in these tests."""


class Stopped(Exception):
    pass


async def test_what_was_written_is_there_afterwards(store: Store) -> None:
    made = records.model("digits")
    async with store.transaction() as inside:
        await inside.models.add(made)
        await inside.models.add_version(records.version(made))
    assert await store.models.get("digits") == made
    assert await store.models.latest_version(made.id) == 1


async def test_an_error_takes_everything_back(store: Store) -> None:
    made, gpu = records.model("digits"), records.server("gpu")

    async def block() -> None:
        async with store.transaction() as inside:
            await inside.servers.add(gpu)
            await inside.models.add(made)
            await inside.models.add_version(records.version(made))
            await inside.models.move_alias(records.move(made))
            await inside.placements.put(records.placement(made, gpu))
            await inside.access_log.append([records.change(await inside.access_log.chain())])
            raise Stopped

    with pytest.raises(Stopped):
        await block()
    with pytest.raises(ModelNotFound):
        await store.models.get("digits")
    assert (await store.servers.page()).items == ()
    assert await store.access_log.head() == EMPTY


async def test_a_change_and_a_removal_are_taken_back_too(store: Store) -> None:
    made, gpu = records.model("digits"), records.server("gpu")
    placed = records.placement(made, gpu)
    await store.models.add(made)
    await store.servers.add(gpu)
    await store.placements.put(placed)

    async def block() -> None:
        async with store.transaction() as inside:
            await inside.models.replace(msgspec.structs.replace(made, name="renamed"))
            await inside.placements.remove(made.id, gpu.id)
            raise Stopped

    with pytest.raises(Stopped):
        await block()
    assert await store.models.get("digits") == made
    assert await store.placements.of_model(made.id) == ((placed, gpu),)


async def test_a_transaction_sees_its_own_writes(store: Store) -> None:
    made, gpu = records.model("digits"), records.server("gpu")
    async with store.transaction() as inside:
        await inside.models.add(made)
        await inside.servers.add(gpu)
        await inside.models.add_version(records.version(made))
        await inside.models.move_alias(records.move(made, "prod"))
        await inside.placements.put(records.placement(made, gpu))
        assert await inside.models.get("digits") == made
        assert await inside.models.latest_version(made.id) == 1
        assert await inside.models.last_move(made.id, "prod") == 1
        assert [each.name for each in (await inside.models.page()).items] == ["digits"]
        assert len(await inside.placements.of_model(made.id)) == 1


async def test_a_transaction_sees_what_it_appended(store: Store) -> None:
    name = await store.access_log.chain()
    async with store.transaction() as inside:
        (first,) = await inside.access_log.append([records.change(name)])
        assert await inside.access_log.head() == first
        (second,) = await inside.access_log.append([records.change(name)])
    assert (first.seq, second.seq) == (1, 2)
    assert await store.access_log.head() == second


async def test_others_see_nothing_before_the_end(database: Database, store: Store) -> None:
    if not database.shared:
        pytest.skip("one store at a time")
    other = database.connect()
    await other.open()
    try:
        async with store.transaction() as inside:
            await inside.models.add(records.model("digits"))
            with pytest.raises(ModelNotFound):
                await other.models.get("digits")
        assert (await other.models.get("digits")).name == "digits"
    finally:
        await other.close()


async def test_a_failed_call_ends_the_transaction_with_nothing_written(store: Store) -> None:
    made = records.model("digits")

    async def block() -> None:
        async with store.transaction() as inside:
            await inside.models.add(made)
            await inside.models.move_alias(records.move(made, version=7))

    with pytest.raises(VersionNotFound):
        await block()
    assert (await store.models.page()).items == ()


async def test_a_refusal_that_a_caller_passes_over_loses_nothing_in_silence(store: Store) -> None:
    await store.models.add(records.model("taken"))
    committed = True
    try:
        async with store.transaction() as inside:
            await inside.models.add(records.model("digits"))
            with suppress(AlreadyExists):
                await inside.models.add(records.model("taken"))
    except AlreadyExists:
        committed = False
    assert [each.name for each in (await store.models.page()).items] == ["digits", "taken"][not committed :]


async def test_the_store_goes_on_after_a_transaction_that_failed(store: Store) -> None:
    with pytest.raises(Stopped):
        async with store.transaction():
            raise Stopped
    await store.models.add(records.model("digits"))
    async with store.transaction() as inside:
        await inside.models.add(records.model("other"))
    assert len((await store.models.page()).items) == 2


async def again(block: object) -> None:
    """Run a block as callers do: anew where somebody else was faster."""
    for _ in range(TRIES):
        try:
            await block()  # type: ignore[operator]
            return
        except ConcurrentChange:
            await asyncio.sleep(0)
    raise AssertionError(f"{TRIES} tries did not do")


async def test_no_version_number_is_lost_or_given_twice(store: Store) -> None:
    made = records.model("digits")
    await store.models.add(made)

    async def register() -> None:
        async with store.transaction() as inside:
            number = await inside.models.latest_version(made.id) + 1
            await asyncio.sleep(0)
            await inside.models.add_version(records.version(made, number))
            await inside.access_log.append([records.change(await inside.access_log.chain(), number=number)])

    await asyncio.gather(*(again(register) for _ in range(6)))
    found = (await store.models.versions(made.id)).items
    assert [each.number for each in found] == [6, 5, 4, 3, 2, 1]
    assert (await store.access_log.head()).seq == 6


async def test_two_edits_at_once_lose_neither(store: Store) -> None:
    await store.models.add(records.model("digits"))

    async def label(key: str) -> None:
        async def block() -> None:
            async with store.transaction() as inside:
                found: Model = await inside.models.get("digits")
                await asyncio.sleep(0.01)
                await inside.models.replace(msgspec.structs.replace(found, labels={**found.labels, key: "1"}))

        await again(block)

    await asyncio.gather(*(label(f"key{number}") for number in range(4)))
    assert len((await store.models.get("digits")).labels) == 4


async def test_an_alias_moves_one_step_at_a_time(store: Store) -> None:
    made = records.model("digits")
    await store.models.add(made)
    await store.models.add_version(records.version(made))

    async def move() -> None:
        async with store.transaction() as inside:
            number = await inside.models.last_move(made.id, "prod") + 1
            await asyncio.sleep(0)
            await inside.models.move_alias(records.move(made, "prod", number))

    await asyncio.gather(*(again(move) for _ in range(5)))
    assert await store.models.last_move(made.id, "prod") == 5


async def test_of_two_that_add_one_name_at_once_one_is_told(store: Store) -> None:
    async def add() -> str:
        try:
            async with store.transaction() as inside:
                await inside.models.add(records.model("digits"))
                await asyncio.sleep(0.01)
        except (AlreadyExists, ConcurrentChange) as error:
            return type(error).__name__
        return "added"

    outcomes = await asyncio.gather(add(), add())
    assert sorted(outcomes)[-1] == "added"
    assert outcomes.count("added") == 1


async def test_appends_outside_go_on_between_those_of_transactions(store: Store) -> None:
    name = await store.access_log.chain()
    lease = LeaseId(uuid7())

    async def change() -> None:
        async with store.transaction() as inside:
            await inside.models.add(records.model(uuid7()))
            await inside.access_log.append([records.change(name)])

    async def run() -> None:
        of = records.invocation()
        await store.access_log.append([records.started(name, of, lease=lease)])
        await store.access_log.append([records.finished(name, of, lease=lease)])

    await asyncio.gather(*(again(change) for _ in range(4)), *(run() for _ in range(4)))
    assert (await store.access_log.head()).seq == 12
    assert len((await store.models.page()).items) == 4


async def test_a_migrated_database_has_the_schema_of_this_program(store: Store) -> None:
    assert await store.schema() == SCHEMA


async def test_what_was_stored_is_there_after_closing_and_opening(database: Database, store: Store) -> None:
    if not database.lasting:
        pytest.skip("it ends with its connection")
    await store.models.add(records.model("digits"))
    await store.access_log.append([records.change(await store.access_log.chain())])
    head = await store.access_log.head()
    await store.close()
    again = database.connect()
    await again.open()
    try:
        assert (await again.models.get("digits")).name == "digits"
        assert await again.access_log.head() == head
    finally:
        await again.close()


async def test_closing_twice_is_no_fault(store: Store) -> None:
    await store.close()
    await store.close()


async def test_the_name_of_a_store_is_told_without_secrets(store: Store) -> None:
    assert store.name
    assert "password" not in store.name
