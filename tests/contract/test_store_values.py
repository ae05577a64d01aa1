"""Values at the edge of what a database can hold: each is held exactly, or refused as what it is, and the store goes on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable
from typing import Any

import pytest

from mer.core.chain import Verifier
from mer.core.errors import InputInvalid, MerError, NotFound, UsageError
from mer.core.identifiers import uuid7
from mer.core.records import AccessFilter, LeaseId
from mer.dal.base import Store
from tests.support import records

SCRIPTS = {
    "latin": "größe",
    "greek": "αριθμός",
    "cyrillic": "число",
    "arabic": "أرقام",
    "hebrew": "ספרות",
    "devanagari": "संख्या",
    "thai": "ตัวเลข",
    "chinese": "数字",
    "japanese": "すうじ",
    "korean": "숫자",
    "beyond the basic plane": "𐍈𝟙𠀋",
}

REFUSED = (UsageError, InputInvalid)


async def held_or_refused(writing: Awaitable[object]) -> bool:
    """Tell whether a write was accepted; refused as anything else than a bad value, it fails."""
    try:
        await writing
    except REFUSED:
        return False
    return True


async def check(store: Store) -> None:
    """Make sure that the store goes on and its log verifies."""
    await store.models.add(records.model(name := uuid7()))
    assert (await store.models.get(name)).name == name
    verifier = Verifier(chain=await store.access_log.chain())
    async for some in store.access_log.scan():
        verifier.feed(some)
    assert verifier.finish() == []


# --- integers


@pytest.mark.parametrize("value", [2**53 + 1, 2**63 - 1, -(2**63)])
async def test_an_integer_of_64_bits_within_json_is_held(store: Store, value: int) -> None:
    await store.servers.add(records.server("gpu", parameters={"number": value, "list": [value]}))
    assert (await store.servers.get("gpu")).parameters == {"number": value, "list": [value]}


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 2**64, 10**400])
async def test_an_integer_beyond_64_bits_within_json_is_held_or_refused(store: Store, value: int) -> None:
    made = records.server("gpu", parameters={"number": value})
    if await held_or_refused(store.servers.add(made)):
        assert (await store.servers.get("gpu")).parameters == {"number": value}
    else:
        assert (await store.servers.page()).items == ()
    await check(store)


@pytest.mark.parametrize("value", [2**31, 2**63, 2**70])
async def test_a_number_beyond_its_column_is_held_or_refused(store: Store, value: int) -> None:
    model = records.model("digits")
    await store.models.add(model)
    if await held_or_refused(store.models.add_version(records.version(model, value))):
        assert (await store.models.version(model.id, value)).number == value
    else:
        assert await store.models.latest_version(model.id) == 0
    await check(store)


@pytest.mark.parametrize("value", [2**63, 2**70, -(2**70)])
async def test_who_asks_for_a_number_that_none_can_have_finds_nothing(store: Store, value: int) -> None:
    model = records.model("digits")
    await store.models.add(model)
    with pytest.raises((NotFound, *REFUSED)):
        await store.models.version(model.id, value)
    with pytest.raises((NotFound, *REFUSED)):
        await store.access_log.get(value)
    await check(store)


# --- text


async def test_a_nul_is_held_or_refused_wherever_it_stands(store: Store) -> None:
    text = "a\0b"
    for number, fields in enumerate(({"description": text}, {"labels": {"key": text}}, {"labels": {text: "value"}})):
        made = records.model(f"m{number}", **fields)
        if await held_or_refused(store.models.add(made)):
            assert await store.models.get(made.name) == made
        else:
            with pytest.raises(NotFound):
                await store.models.get(made.name)
    with pytest.raises((NotFound, *REFUSED)):
        await store.models.get(text)
    await held_or_refused(store.access_log.page(AccessFilter(model=text)))
    await check(store)


async def test_a_lone_surrogate_is_held_or_refused_wherever_it_stands(store: Store) -> None:
    text = "a\ud800b"
    for number, fields in enumerate(({"description": text}, {"labels": {"key": text}})):
        made = records.model(f"m{number}", **fields)
        if await held_or_refused(store.models.add(made)):
            assert await store.models.get(made.name) == made
    with pytest.raises((NotFound, *REFUSED)):
        await store.models.get(text)
    await check(store)


async def test_a_nul_in_a_record_takes_neither_its_neighbours_nor_the_log_with_it(store: Store) -> None:
    chain = await store.access_log.chain()
    bodies = [records.change(chain, number=1), records.change(chain, text="a\0b"), records.change(chain, number=2)]
    try:
        await store.access_log.append(bodies)
        expected = 3
    except MerError:
        expected = 2
    assert (await store.access_log.head()).seq == expected
    await check(store)


async def test_a_description_of_5_megabytes_is_held(store: Store) -> None:
    text = "ä line of a model card\n" * (5_000_000 // 23)
    made = records.model("digits", description=text)
    await store.models.add(made)
    assert await store.models.get("digits") == made
    assert (await store.models.page()).items == (made,)


async def test_names_of_any_script_are_held_found_and_filtered_by(store: Store) -> None:
    chain, lease = await store.access_log.chain(), LeaseId(uuid7())
    for name in SCRIPTS.values():
        await store.models.add(records.model(name, labels={name: name}))
        body = records.started(chain, records.invocation(), lease=lease, model=name, server=name, actor={"user": name})
        await store.access_log.append([body])
    for name in SCRIPTS.values():
        assert (await store.models.get(name)).labels == {name: name}
        for where in (AccessFilter(model=name), AccessFilter(actor=name)):
            (found,) = (await store.access_log.page(where)).items
            assert found.columns["model"] == name
    assert [model.name for model in (await store.models.page()).items] == sorted(SCRIPTS.values())
    await check(store)


# --- times

KOLKATA = dt.timezone(dt.timedelta(hours=5, minutes=30))


async def test_a_time_of_another_zone_is_the_same_moment(store: Store) -> None:
    made = records.model("digits", created_at=dt.datetime(2026, 11, 21, 17, 30, 0, 123456, tzinfo=KOLKATA))
    await store.models.add(made)
    found = await store.models.get("digits")
    assert found.created_at == made.created_at == records.NOON


async def test_a_filter_takes_times_of_any_zone(store: Store) -> None:
    await store.access_log.append([records.change(await store.access_log.chain())])
    noon = records.NOON.astimezone(KOLKATA)
    for where, count in (
        (AccessFilter(since=noon), 1),
        (AccessFilter(since=noon + dt.timedelta(microseconds=1)), 0),
        (AccessFilter(until=noon + dt.timedelta(microseconds=1)), 1),
    ):
        assert len((await store.access_log.page(where)).items) == count


def test_a_filter_by_a_time_without_a_zone_is_refused() -> None:
    naive = records.NOON.replace(tzinfo=None)
    for where in ({"since": naive}, {"until": naive}):
        with pytest.raises(UsageError, match="no zone"):
            AccessFilter(**where)


@pytest.mark.parametrize(
    "at", ["2026-11-21T12:00:00", "2026-11-21T12:00:00.123456", "2026-11-21T12:00:00.123456+05:30"]
)
async def test_a_record_whose_time_is_not_utc_as_bodies_write_it_is_refused(store: Store, at: str) -> None:
    body = records.change(await store.access_log.chain(), at=at)
    with pytest.raises(MerError):
        await store.access_log.append([body])
    await check(store)


# --- a clock that jumps back


async def test_a_clock_that_jumps_back_changes_no_order_of_the_log(store: Store) -> None:
    chain, lease = await store.access_log.chain(), LeaseId(uuid7())
    of = [records.invocation() for _ in range(3)]
    hours = ("14", "12", "13")
    for invocation, hour in zip(of, hours, strict=True):
        at = f"2026-11-21T{hour}:00:00.000000Z"
        await store.access_log.append([records.started(chain, invocation, lease=lease, at=at)])
    found = (await store.access_log.page(AccessFilter())).items
    assert [record.columns["invocation"] for record in found] == list(reversed(of))
    assert [each.invocation for each in await store.access_log.unfinished(lease)] == of
    await check(store)


async def test_a_clock_that_jumps_back_does_not_undo_a_move(store: Store) -> None:
    model = records.model("digits")
    await store.models.add(model)
    for number in (1, 2):
        await store.models.add_version(records.version(model, number, created_at=records.at(-number)))
    await store.models.move_alias(records.move(model, "prod", 1, version=1, at=records.at(10)))
    await store.models.move_alias(records.move(model, "prod", 2, version=2, at=records.at(0)))
    assert (await store.models.alias(model.id, "prod")).version == 2
    assert await store.models.latest_version(model.id) == 2
    assert [each.move for each in await store.models.aliases(model.id)] == [2]


async def test_a_finish_before_its_start_is_kept_as_it_came(store: Store) -> None:
    chain, lease, of = await store.access_log.chain(), LeaseId(uuid7()), records.invocation()
    bodies: list[Any] = [
        records.started(chain, of, lease=lease, at="2026-11-21T12:00:01.000000Z"),
        records.finished(chain, of, lease=lease, at="2026-11-21T12:00:00.000000Z"),
    ]
    await store.access_log.append(bodies)
    assert [record.body for record in await store.access_log.of_invocation(of)] == bodies
    assert await store.access_log.unfinished(lease) == ()
    await check(store)
