"""What servers, models and weights have in common: unique names, replacing, pages by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from mer.core.errors import AlreadyExists, ModelNotFound, NotFound, ServerNotFound, WeightsNotFound
from mer.core.identifiers import uuid7
from mer.core.records import MAX_PAGE
from mer.dal.base import Store
from tests.support import records


@dataclass(frozen=True)
class Noun:
    repository: Callable[[Store], Any]
    make: Callable[..., Any]
    missing: type[NotFound]


NOUNS = {
    "servers": Noun(lambda store: store.servers, records.server, ServerNotFound),
    "models": Noun(lambda store: store.models, records.model, ModelNotFound),
    "weights": Noun(lambda store: store.weights, records.weights, WeightsNotFound),
}

pytestmark = pytest.mark.parametrize("noun", NOUNS.values(), ids=NOUNS)


async def test_what_was_added_is_read_back_whole(store: Store, noun: Noun) -> None:
    made = noun.make("größe-七", description='a "quoted" text\nof two lines', labels={"team": "vision", "ß": "✓"})
    await noun.repository(store).add(made)
    assert await noun.repository(store).get("größe-七") == made


async def test_a_name_that_nobody_has_is_not_found(store: Store, noun: Noun) -> None:
    with pytest.raises(noun.missing, match="nobody"):
        await noun.repository(store).get("nobody")


async def test_a_name_stands_once(store: Store, noun: Noun) -> None:
    first = noun.make("one")
    await noun.repository(store).add(first)
    with pytest.raises(AlreadyExists, match="one"):
        await noun.repository(store).add(noun.make("one"))
    assert await noun.repository(store).get("one") == first


async def test_the_name_of_a_retired_one_stays_taken(store: Store, noun: Noun) -> None:
    await noun.repository(store).add(noun.make("one", retired_at=records.at(1)))
    with pytest.raises(AlreadyExists):
        await noun.repository(store).add(noun.make("one"))


async def test_an_id_stands_once(store: Store, noun: Noun) -> None:
    made = noun.make("one")
    await noun.repository(store).add(made)
    with pytest.raises(AlreadyExists):
        await noun.repository(store).add(noun.make("two", id=made.id))


async def test_names_differ_by_case(store: Store, noun: Noun) -> None:
    await noun.repository(store).add(noun.make("One"))
    await noun.repository(store).add(noun.make("one"))
    assert (await noun.repository(store).get("One")).name == "One"


async def test_replacing_stores_the_record_anew(store: Store, noun: Noun) -> None:
    made = noun.make("one", labels={"old": "1"})
    await noun.repository(store).add(made)
    changed = msgspec.structs.replace(made, description="new", labels={"new": "2"}, retired_at=records.at(5))
    await noun.repository(store).replace(changed)
    assert await noun.repository(store).get("one") == changed


async def test_replacing_can_rename_and_frees_the_old_name(store: Store, noun: Noun) -> None:
    made = noun.make("old")
    await noun.repository(store).add(made)
    await noun.repository(store).replace(msgspec.structs.replace(made, name="new"))
    await noun.repository(store).add(noun.make("old"))
    assert (await noun.repository(store).get("new")).id == made.id


async def test_replacing_what_is_not_there_is_not_found(store: Store, noun: Noun) -> None:
    with pytest.raises(noun.missing):
        await noun.repository(store).replace(noun.make("one"))


async def test_replacing_cannot_take_the_name_of_another(store: Store, noun: Noun) -> None:
    first, second = noun.make("one"), noun.make("two")
    await noun.repository(store).add(first)
    await noun.repository(store).add(second)
    with pytest.raises(AlreadyExists, match="one"):
        await noun.repository(store).replace(msgspec.structs.replace(second, name="one"))
    assert await noun.repository(store).get("two") == second


async def test_a_page_lists_by_name_in_the_order_of_code_points(store: Store, noun: Noun) -> None:
    for name in ("b", "a", "Z", "é", "a-1", "a1", "十"):
        await noun.repository(store).add(noun.make(name))
    page = await noun.repository(store).page()
    assert [each.name for each in page.items] == ["Z", "a", "a-1", "a1", "b", "é", "十"]


async def test_pages_follow_each_other_to_the_end(store: Store, noun: Noun) -> None:
    for name in "abcde":
        await noun.repository(store).add(noun.make(name))
    names, after = [], None
    for _ in range(3):
        page = await noun.repository(store).page(after=after, limit=2)
        names.append([each.name for each in page.items])
        after = page.next
    assert (names, after) == ([["a", "b"], ["c", "d"], ["e"]], None)


async def test_a_full_last_page_says_that_it_is_the_last(store: Store, noun: Noun) -> None:
    for name in "ab":
        await noun.repository(store).add(noun.make(name))
    assert (await noun.repository(store).page(limit=2)).next is None


async def test_a_page_does_not_shift_while_others_write(store: Store, noun: Noun) -> None:
    for name in "bcd":
        await noun.repository(store).add(noun.make(name))
    first = await noun.repository(store).page(limit=2)
    await noun.repository(store).add(noun.make("a"))
    second = await noun.repository(store).page(after=first.next, limit=2)
    assert [each.name for each in second.items] == ["d"]


async def test_retired_ones_are_listed_only_when_asked_for(store: Store, noun: Noun) -> None:
    await noun.repository(store).add(noun.make("gone", retired_at=records.at(1)))
    await noun.repository(store).add(noun.make("here"))
    assert [each.name for each in (await noun.repository(store).page()).items] == ["here"]
    assert [each.name for each in (await noun.repository(store).page(retired=True)).items] == ["gone", "here"]


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_page_has_at_least_one_record(store: Store, noun: Noun, limit: int) -> None:
    for name in "ab":
        await noun.repository(store).add(noun.make(name))
    assert len((await noun.repository(store).page(limit=limit)).items) == 1


async def test_no_page_is_longer_than_the_bound(store: Store, noun: Noun) -> None:
    async with store.transaction() as inside:
        for number in range(MAX_PAGE + 1):
            await noun.repository(inside).add(noun.make(f"n{number:04}"))  # type: ignore[arg-type]
    page = await noun.repository(store).page(limit=MAX_PAGE + 1)
    assert (len(page.items), page.next) == (MAX_PAGE, f"n{MAX_PAGE - 1:04}")


async def test_text_stays_what_it_is(store: Store, noun: Noun) -> None:
    text = "'; DROP TABLE model; -- $1 %s {} \\ \u2028 \U0001f9ea"
    await noun.repository(store).add(noun.make("one", description=text, labels={text: text}))
    found = await noun.repository(store).get("one")
    assert (found.description, found.labels) == (text, {text: text})


async def test_times_keep_their_microseconds_and_are_utc(store: Store, noun: Noun) -> None:
    made = noun.make(uuid7())
    await noun.repository(store).add(made)
    found = await noun.repository(store).get(made.name)
    assert found.created_at.isoformat() == "2026-11-21T12:00:00.123456+00:00"
