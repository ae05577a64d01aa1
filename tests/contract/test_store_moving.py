"""Moving house: every store takes over what another had, and gives it on, field by field the same."""

from __future__ import annotations

import pytest

from mer.core.errors import DatabaseNotEmpty
from mer.core.records import LOCAL, ServerKind
from mer.dal.base import SCHEMA, Store
from mer.dal.memory import MemoryStore
from mer.moving.source import StoreSource
from mer.moving.transfer import transfer
from tests.support import records
from tests.support.houses import append, furnish, sound, whole

RECORDS = 700
"""More than one group."""


@pytest.fixture
async def old() -> Store:
    made = MemoryStore()
    await furnish(made)
    await append(made, RECORDS)
    return made


async def test_everything_comes_along_and_back(store: Store, old: Store) -> None:
    there = await transfer(StoreSource(old), store)
    assert (there.records, there.gone_on) == (RECORDS, False)
    assert await whole(store) == await whole(old)
    assert await sound(store)
    back = MemoryStore()
    await transfer(StoreSource(store), back)
    assert await whole(back) == await whole(old)


async def test_a_move_goes_on_where_it_was_cut_and_follows_what_was_changed_meanwhile(store: Store, old: Store) -> None:
    await transfer(StoreSource(old), store)
    digits, gpu = await old.models.get("digits"), await old.servers.get("gpu")
    await old.placements.remove(digits.id, gpu.id)
    await old.models.add_version(records.version(digits, 4))
    await append(old, 3)
    again = await transfer(StoreSource(old), store)
    assert again.records == 3
    assert await whole(store) == await whole(old)


async def test_the_server_that_opening_makes_is_the_same_server(store: Store, old: Store) -> None:
    own = records.server(LOCAL, kind=ServerKind.LOCAL, created_at=records.at(77))
    await store.servers.add(own)
    await transfer(StoreSource(old), store)
    assert (await store.servers.get(LOCAL)).id == own.id
    placed = await store.placements.of_model((await old.models.get("digits")).id)
    assert [server.name for _, server in placed] == ["gpu", "local"]


async def test_a_database_that_holds_something_else_is_left_alone(store: Store, old: Store) -> None:
    await append(store, 1)
    before = await whole(store)
    with pytest.raises(DatabaseNotEmpty, match="holds the log of chain"):
        await transfer(StoreSource(old), store)
    assert await whole(store) == before


async def test_every_store_describes_itself(store: Store) -> None:
    found = await store.describe()
    assert found.server
    assert found.client
    assert await store.schema() == SCHEMA
