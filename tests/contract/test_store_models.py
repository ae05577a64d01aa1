"""Models: immutable versions, retirements, aliases with history."""

from __future__ import annotations

import pytest

from mer.core.errors import AliasNotFound, ConcurrentChange, ModelNotFound, UsageError, VersionNotFound
from mer.core.records import Digest, Model
from mer.core.specs import Command, Limits, TensorSpec, Tokens, VersionSpec
from mer.dal.base import Store
from tests.support import records


@pytest.fixture
async def digits(store: Store) -> Model:
    made = records.model("digits")
    await store.models.add(made)
    return made


async def test_a_model_without_versions_has_the_latest_version_0(store: Store, digits: Model) -> None:
    assert await store.models.latest_version(digits.id) == 0


async def test_a_version_is_read_back_whole(store: Store, digits: Model) -> None:
    spec = VersionSpec(
        runner="command",
        options={"count": 2**53, "rate": 0.1, "name": "ß", "on": True},
        inputs=(
            TensorSpec(name="image", dtype="float32", shape=("n", 8, "*"), description="a picture"),
            TensorSpec(name="scalar", dtype="int64", shape=()),
            TensorSpec(name="any", dtype="json", shape="*"),
        ),
        outputs=(TensorSpec(name="digit", dtype="int64", internal_name="output_0"),),
        arrays="buffer",
        command=Command(argv=("./run", "--flag", "a b"), directory="/opt", tokens=Tokens(ready="READY")),
        limits=Limits(wall_seconds=1.5, load_seconds=60),
        short_description="reads digits",
        required_platforms=("x86_64-unknown-linux-gnu",),
    )
    made = records.version(digits, 1, spec=spec, package=None, weights=Digest("ef" * 32))
    await store.models.add_version(made)
    assert await store.models.version(digits.id, 1) == made


async def test_a_taken_number_is_a_concurrent_change(store: Store, digits: Model) -> None:
    first = records.version(digits, 1)
    await store.models.add_version(first)
    with pytest.raises(ConcurrentChange):
        await store.models.add_version(records.version(digits, 1, package=Digest("00" * 32)))
    assert await store.models.version(digits.id, 1) == first


async def test_a_version_needs_its_model(store: Store) -> None:
    with pytest.raises(ModelNotFound):
        await store.models.add_version(records.version(records.model("nobody")))


async def test_a_version_that_is_not_there_is_not_found(store: Store, digits: Model) -> None:
    with pytest.raises(VersionNotFound, match="7"):
        await store.models.version(digits.id, 7)


async def test_versions_are_listed_newest_first_by_number_not_by_text(store: Store, digits: Model) -> None:
    for number in range(1, 12):
        await store.models.add_version(records.version(digits, number))
    page = await store.models.versions(digits.id, limit=3)
    assert [each.number for each in page.items] == [11, 10, 9]
    page = await store.models.versions(digits.id, after=page.next, limit=8)
    assert ([each.number for each in page.items], page.next) == ([8, 7, 6, 5, 4, 3, 2, 1], None)


async def test_a_page_of_versions_does_not_shift_when_one_is_added(store: Store, digits: Model) -> None:
    for number in (1, 2, 3):
        await store.models.add_version(records.version(digits, number))
    first = await store.models.versions(digits.id, limit=1)
    await store.models.add_version(records.version(digits, 4))
    second = await store.models.versions(digits.id, after=first.next, limit=1)
    assert [each.number for each in second.items] == [2]


async def test_a_place_that_is_no_number_is_a_usage_error(store: Store, digits: Model) -> None:
    with pytest.raises(UsageError):
        await store.models.versions(digits.id, after="x")


async def test_two_models_count_their_versions_apart(store: Store, digits: Model) -> None:
    other = records.model("other")
    await store.models.add(other)
    await store.models.add_version(records.version(digits, 1))
    await store.models.add_version(records.version(other, 1))
    await store.models.add_version(records.version(other, 2))
    assert (await store.models.latest_version(digits.id), await store.models.latest_version(other.id)) == (1, 2)


async def test_retiring_keeps_the_version_and_says_so_beside_it(store: Store, digits: Model) -> None:
    made = records.version(digits, 1)
    await store.models.add_version(made)
    await store.models.retire_version(records.retirement(digits, 1))
    assert await store.models.version(digits.id, 1) == made
    assert await store.models.retirements(digits.id) == (records.retirement(digits, 1),)


async def test_retiring_twice_keeps_the_first(store: Store, digits: Model) -> None:
    await store.models.add_version(records.version(digits, 1))
    await store.models.retire_version(records.retirement(digits, 1, at=records.at(1)))
    await store.models.retire_version(records.retirement(digits, 1, at=records.at(2)))
    assert [each.at for each in await store.models.retirements(digits.id)] == [records.at(1)]


async def test_only_a_version_can_be_retired(store: Store, digits: Model) -> None:
    with pytest.raises(VersionNotFound):
        await store.models.retire_version(records.retirement(digits, 1))


async def test_retirements_are_listed_by_number(store: Store, digits: Model) -> None:
    for number in (1, 2, 10):
        await store.models.add_version(records.version(digits, number))
    for number in (10, 1, 2):
        await store.models.retire_version(records.retirement(digits, number))
    assert [each.number for each in await store.models.retirements(digits.id)] == [1, 2, 10]


async def test_a_retired_version_counts_for_the_latest_number(store: Store, digits: Model) -> None:
    await store.models.add_version(records.version(digits, 1))
    await store.models.retire_version(records.retirement(digits, 1))
    assert await store.models.latest_version(digits.id) == 1


async def test_an_alias_means_its_newest_move(store: Store, digits: Model) -> None:
    for number in (1, 2):
        await store.models.add_version(records.version(digits, number))
    await store.models.move_alias(records.move(digits, "prod", 1, version=2))
    newest = records.move(digits, "prod", 2, version=1, actor="grace", at=records.at(9))
    await store.models.move_alias(newest)
    assert await store.models.alias(digits.id, "prod") == newest
    assert await store.models.last_move(digits.id, "prod") == 2


async def test_an_alias_that_was_never_set_is_not_found(store: Store, digits: Model) -> None:
    with pytest.raises(AliasNotFound, match="prod"):
        await store.models.alias(digits.id, "prod")
    assert await store.models.last_move(digits.id, "prod") == 0


async def test_an_alias_that_means_nothing_any_more_is_not_found_but_has_moves(store: Store, digits: Model) -> None:
    await store.models.add_version(records.version(digits, 1))
    await store.models.move_alias(records.move(digits, "prod", 1))
    await store.models.move_alias(records.move(digits, "prod", 2, version=None))
    with pytest.raises(AliasNotFound):
        await store.models.alias(digits.id, "prod")
    assert await store.models.last_move(digits.id, "prod") == 2
    assert await store.models.aliases(digits.id) == ()


async def test_a_taken_move_is_a_concurrent_change(store: Store, digits: Model) -> None:
    for number in (1, 2):
        await store.models.add_version(records.version(digits, number))
    await store.models.move_alias(records.move(digits, "prod", 1, version=1))
    with pytest.raises(ConcurrentChange):
        await store.models.move_alias(records.move(digits, "prod", 1, version=2))
    assert (await store.models.alias(digits.id, "prod")).version == 1


async def test_an_alias_needs_its_version(store: Store, digits: Model) -> None:
    with pytest.raises(VersionNotFound):
        await store.models.move_alias(records.move(digits, "prod", 1, version=3))


async def test_an_alias_needs_its_model(store: Store) -> None:
    with pytest.raises(ModelNotFound):
        await store.models.move_alias(records.move(records.model("nobody"), "prod", 1, version=None))


async def test_aliases_are_listed_by_name_each_with_its_newest_move(store: Store, digits: Model) -> None:
    for number in (1, 2):
        await store.models.add_version(records.version(digits, number))
    await store.models.move_alias(records.move(digits, "prod", 1, version=1))
    await store.models.move_alias(records.move(digits, "prod", 2, version=2))
    await store.models.move_alias(records.move(digits, "default", 1, version=1))
    found = [(each.alias, each.version) for each in await store.models.aliases(digits.id)]
    assert found == [("default", 1), ("prod", 2)]


async def test_history_lists_the_moves_of_all_aliases_newest_first(store: Store, digits: Model) -> None:
    await store.models.add_version(records.version(digits, 1))
    for alias, number, seconds in (("b", 1, 1), ("a", 1, 2), ("b", 2, 3), ("a", 2, 3), ("a", 3, 3)):
        await store.models.move_alias(records.move(digits, alias, number, at=records.at(seconds)))
    found, after = [], None
    for _ in range(3):
        page = await store.models.alias_history(digits.id, after=after, limit=2)
        found += [(each.alias, each.move) for each in page.items]
        after = page.next
    assert (found, after) == ([("b", 2), ("a", 3), ("a", 2), ("a", 1), ("b", 1)], None)


async def test_history_does_not_shift_when_an_alias_moves(store: Store, digits: Model) -> None:
    await store.models.add_version(records.version(digits, 1))
    for number in (1, 2, 3):
        await store.models.move_alias(records.move(digits, "prod", number, at=records.at(number)))
    first = await store.models.alias_history(digits.id, limit=1)
    await store.models.move_alias(records.move(digits, "prod", 4, at=records.at(4)))
    second = await store.models.alias_history(digits.id, after=first.next, limit=1)
    assert [each.move for each in second.items] == [2]


async def test_a_place_that_is_no_move_is_a_usage_error(store: Store, digits: Model) -> None:
    with pytest.raises(UsageError):
        await store.models.alias_history(digits.id, after="7")


async def test_the_largest_version_number_fits(store: Store, digits: Model) -> None:
    await store.models.add_version(records.version(digits, 2**31 - 1))
    assert await store.models.latest_version(digits.id) == 2**31 - 1
