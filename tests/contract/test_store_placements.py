"""Placements: one for a model and a server."""

from __future__ import annotations

import msgspec
import pytest

from mer.core.errors import ModelNotFound, PlacementNotFound, ServerNotFound, VersionNotFound
from mer.core.records import Model, Server
from mer.dal.base import Store
from tests.support import records


@pytest.fixture
async def digits(store: Store) -> Model:
    made = records.model("digits")
    await store.models.add(made)
    await store.models.add_version(records.version(made, 1))
    return made


@pytest.fixture
async def gpu(store: Store) -> Server:
    made = records.server("gpu", parameters={"host": "gpu.example"})
    await store.servers.add(made)
    return made


async def test_a_placement_is_read_back_whole_with_its_server(store: Store, digits: Model, gpu: Server) -> None:
    made = records.placement(digits, gpu, version=1, device="cuda:0", path="/opt/a b")
    await store.placements.put(made)
    assert await store.placements.of_model(digits.id) == ((made, gpu),)


async def test_putting_again_takes_the_place_of_the_old_one(store: Store, digits: Model, gpu: Server) -> None:
    await store.placements.put(records.placement(digits, gpu, version=1, device="cuda:0"))
    newer = records.placement(digits, gpu, created_at=records.at(1))
    await store.placements.put(newer)
    assert await store.placements.of_model(digits.id) == ((newer, gpu),)


async def test_a_removed_placement_is_gone(store: Store, digits: Model, gpu: Server) -> None:
    await store.placements.put(records.placement(digits, gpu))
    await store.placements.remove(digits.id, gpu.id)
    assert await store.placements.of_model(digits.id) == ()


async def test_removing_what_is_not_there_is_not_found(store: Store, digits: Model, gpu: Server) -> None:
    with pytest.raises(PlacementNotFound):
        await store.placements.remove(digits.id, gpu.id)


async def test_placements_of_a_model_come_by_the_servers_name(store: Store, digits: Model) -> None:
    for name in ("b", "a", "Z"):
        made = records.server(name)
        await store.servers.add(made)
        await store.placements.put(records.placement(digits, made))
    assert [server.name for _, server in await store.placements.of_model(digits.id)] == ["Z", "a", "b"]


async def test_a_placement_on_a_retired_server_shows_that_it_is(store: Store, digits: Model, gpu: Server) -> None:
    await store.placements.put(records.placement(digits, gpu))
    await store.servers.replace(msgspec.structs.replace(gpu, retired_at=records.at(1)))
    [(_, server)] = await store.placements.of_model(digits.id)
    assert server.retired_at == records.at(1)


async def test_placements_of_a_server_come_by_the_models_name_in_pages(store: Store, gpu: Server) -> None:
    made = [records.model(name) for name in ("c", "a", "b")]
    for each in made:
        await store.models.add(each)
        await store.placements.put(records.placement(each, gpu))
    first = await store.placements.of_server(gpu.id, limit=2)
    rest = await store.placements.of_server(gpu.id, after=first.next, limit=2)
    assert [model.name for _, model in first.items] == ["a", "b"]
    assert (rest.items, rest.next) == (((records.placement(made[0], gpu), made[0]),), None)


async def test_a_placement_needs_its_model(store: Store, gpu: Server) -> None:
    with pytest.raises(ModelNotFound):
        await store.placements.put(records.placement(records.model("nobody"), gpu))


async def test_a_placement_needs_its_server(store: Store, digits: Model) -> None:
    with pytest.raises(ServerNotFound):
        await store.placements.put(records.placement(digits, records.server("nowhere")))


async def test_a_pinned_version_must_be_there(store: Store, digits: Model, gpu: Server) -> None:
    with pytest.raises(VersionNotFound):
        await store.placements.put(records.placement(digits, gpu, version=9))
