"""Weights: immutable versions."""

from __future__ import annotations

import pytest

from mer.core.errors import ConcurrentChange, VersionNotFound, WeightsNotFound
from mer.core.records import Digest, Weights
from mer.dal.base import Store
from tests.support import records


@pytest.fixture
async def digits(store: Store) -> Weights:
    made = records.weights("digits")
    await store.weights.add(made)
    return made


async def test_a_version_is_read_back_whole(store: Store, digits: Weights) -> None:
    made = records.weights_version(digits, 1, size=2**53, tensors=0)
    await store.weights.add_version(made)
    assert await store.weights.version(digits.id, 1) == made


async def test_a_taken_number_is_a_concurrent_change(store: Store, digits: Weights) -> None:
    first = records.weights_version(digits, 1)
    await store.weights.add_version(first)
    with pytest.raises(ConcurrentChange):
        await store.weights.add_version(records.weights_version(digits, 1, digest=Digest("00" * 32)))
    assert await store.weights.version(digits.id, 1) == first


async def test_a_version_needs_its_weights(store: Store) -> None:
    with pytest.raises(WeightsNotFound):
        await store.weights.add_version(records.weights_version(records.weights("nobody")))


async def test_a_version_that_is_not_there_is_not_found(store: Store, digits: Weights) -> None:
    with pytest.raises(VersionNotFound):
        await store.weights.version(digits.id, 1)


async def test_the_latest_version_is_the_highest_number(store: Store, digits: Weights) -> None:
    before = await store.weights.latest_version(digits.id)
    for number in (1, 2):
        await store.weights.add_version(records.weights_version(digits, number))
    assert (before, await store.weights.latest_version(digits.id)) == (0, 2)


async def test_versions_are_listed_newest_first_in_pages(store: Store, digits: Weights) -> None:
    for number in range(1, 12):
        await store.weights.add_version(records.weights_version(digits, number))
    first = await store.weights.versions(digits.id, limit=2)
    rest = await store.weights.versions(digits.id, after=first.next)
    assert [each.number for each in first.items] == [11, 10]
    assert ([each.number for each in rest.items], rest.next) == ([9, 8, 7, 6, 5, 4, 3, 2, 1], None)
