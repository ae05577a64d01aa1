"""Leases: living drivers, by the store's own clock."""

from __future__ import annotations

import asyncio
import datetime as dt

import msgspec
import pytest

from mer.core.errors import AlreadyExists
from mer.dal.base import Store
from tests.support import records


async def test_a_lease_is_read_back_with_the_stores_times(store: Store) -> None:
    made = records.lease(pid=2**31 - 1)
    before = await store.leases.now()
    await store.leases.acquire(made)
    (held,) = await store.leases.all()
    assert msgspec.structs.replace(held, acquired_at=made.acquired_at, last_seen=made.last_seen) == made
    assert before <= held.acquired_at == held.last_seen <= await store.leases.now()


async def test_a_lease_is_acquired_once(store: Store) -> None:
    made = records.lease()
    await store.leases.acquire(made)
    with pytest.raises(AlreadyExists):
        await store.leases.acquire(made)


async def test_renewing_sets_when_it_was_last_seen(store: Store) -> None:
    made = records.lease()
    await store.leases.acquire(made)
    await asyncio.sleep(0.002)  # SurrealDB and Postgres count microseconds, a slow clock may count milliseconds
    renewed = await store.leases.renew(made.id)
    (held,) = await store.leases.all()
    assert renewed is True
    assert held.last_seen > held.acquired_at


async def test_renewing_a_freed_lease_says_so_and_does_not_bring_it_back(store: Store) -> None:
    made = records.lease()
    await store.leases.acquire(made)
    await store.leases.release(made.id)
    assert await store.leases.renew(made.id) is False
    assert await store.leases.all() == ()


async def test_releasing_twice_is_no_fault(store: Store) -> None:
    made = records.lease()
    await store.leases.acquire(made)
    await store.leases.release(made.id)
    await store.leases.release(made.id)
    assert await store.leases.all() == ()


async def test_leases_are_listed_oldest_first(store: Store) -> None:
    made = [records.lease(pid=pid) for pid in (3, 1, 2)]
    for each in made:
        await store.leases.acquire(each)
        await asyncio.sleep(0.002)
    assert [held.pid for held in await store.leases.all()] == [3, 1, 2]


async def test_the_clock_is_utc(store: Store) -> None:
    now = await store.leases.now()
    assert now.utcoffset() == dt.timedelta()
