"""A database that is being filled is its filler's alone until that ends, whichever database it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mer.core.errors import BeingFilled, NotAllowed
from mer.core.records import LeaseId
from mer.dal.base import Store
from mer.dal.filling import MAX_SOURCE
from tests.support import records
from tests.support.stores import Database

LEASE = LeaseId("0199aaaa-0000-7000-8000-000000000001")


@asynccontextmanager
async def another(database: Database, store: Store) -> AsyncIterator[Store]:
    """Open the database once more, as another driver does; the first has to go where only one can."""
    if not database.lasting or database.connect() is store:
        pytest.skip("there is no other store on what this one holds")
    if not database.shared:
        await store.close()
    other = database.connect()
    await other.open()
    try:
        yield other
    finally:
        await other.close()
        if not database.shared:
            await store.open()


async def bodies(store: Store, count: int) -> list[str]:
    chain = await store.access_log.chain()
    return [records.started(chain, records.invocation(), lease=LEASE) for _ in range(count)]


async def test_a_database_is_whole_at_first(store: Store) -> None:
    assert await store.filling() is None


async def test_the_mark_says_what_from_and_since_when(store: Store) -> None:
    await store.begin_filling("registry.gz")
    first = await store.filling()
    assert first is not None
    assert first.source == "registry.gz"
    assert abs((await store.leases.now() - first.since).total_seconds()) < 60


async def test_who_resumes_is_named_and_the_beginning_stays(store: Store) -> None:
    await store.begin_filling("first")
    first = await store.filling()
    await store.begin_filling("second")
    second = await store.filling()
    assert first is not None
    assert second is not None
    assert (second.source, second.since) == ("second", first.since)


async def test_a_long_name_is_cut(store: Store) -> None:
    await store.begin_filling("ü" * (MAX_SOURCE + 1))
    found = await store.filling()
    assert found is not None
    assert found.source == "ü" * MAX_SOURCE


async def test_the_mark_goes_and_going_twice_is_no_fault(store: Store) -> None:
    await store.begin_filling("first")
    await store.end_filling()
    await store.end_filling()
    assert await store.filling() is None


@pytest.mark.parametrize("count", [1, 3])
async def test_who_fills_it_appends(store: Store, count: int) -> None:
    await store.begin_filling("first")
    places = await store.access_log.append(await bodies(store, count))
    async with store.transaction() as unit:
        await unit.access_log.append(await bodies(store, 1))
    assert [place.seq for place in places] == list(range(1, count + 1))
    assert (await store.access_log.head()).seq == count + 1


@pytest.mark.parametrize("count", [1, 3])
async def test_nobody_else_appends_until_it_has_ended(database: Database, store: Store, count: int) -> None:
    await store.access_log.append(await bodies(store, 2))
    await store.begin_filling("first")
    async with another(database, store) as other:
        with pytest.raises(BeingFilled):
            await other.access_log.append(await bodies(other, count))
        with pytest.raises(BeingFilled):
            async with other.transaction() as unit:
                await unit.access_log.append(await bodies(other, count))
        assert (await other.access_log.head()).seq == 2
        await other.end_filling()
        await other.access_log.append(await bodies(other, count))
        assert (await other.access_log.head()).seq == 2 + count


async def test_another_may_resume(database: Database, store: Store) -> None:
    await store.begin_filling("first")
    async with another(database, store) as other:
        await other.begin_filling("second")
        await other.access_log.append(await bodies(other, 1))
        await other.end_filling()
        await other.access_log.append(await bodies(other, 1))
        assert (await other.access_log.head()).seq == 2


@pytest.mark.parametrize("count", [1, 3])
async def test_who_was_given_up_appends_no_more(database: Database, store: Store, count: int) -> None:
    await store.begin_filling("first")
    async with another(database, store) as other:
        await other.end_filling()
    with pytest.raises(NotAllowed, match="was given up"):
        await store.access_log.append(await bodies(store, count))
    assert (await store.access_log.head()).seq == 0
