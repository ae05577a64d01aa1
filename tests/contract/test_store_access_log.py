"""The access log: one chain, whatever is appended by whom."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from typing import Any

import pytest

from mer.core import chain
from mer.core.errors import MerError, NotAllowed, RecordNotFound, UsageError
from mer.core.identifiers import uuid7
from mer.core.records import AccessFilter, AccessRecord, InvocationId, LeaseId, Outcome, RecordKind
from mer.dal.base import Store
from tests.support import records
from tests.support.stores import Database

LEASE = LeaseId(uuid7())
NO_OBJECT = '["not", "an", "object"]'


async def everything(store: Store) -> list[AccessRecord]:
    return [record async for chunk in store.access_log.scan() for record in chunk]


async def faults(store: Store) -> list[chain.Fault]:
    verifier = chain.Verifier(chain=await store.access_log.chain())
    async for chunk in store.access_log.scan():
        verifier.feed(chunk)
    return verifier.finish()


async def changes(store: Store, count: int) -> list[chain.Head]:
    name = await store.access_log.chain()
    bodies = [records.change(name, number=number) for number in range(count)]
    # SurrealDB in memory takes four times as long for a transaction of twice the size
    groups = [bodies[start : start + 250] for start in range(0, count, 250)]
    return [place for group in groups for place in await store.access_log.append(group)]


async def test_an_empty_log_has_the_empty_head(store: Store) -> None:
    assert await store.access_log.head() == chain.EMPTY


async def test_the_chain_has_a_uuid_that_stays(store: Store) -> None:
    name = await store.access_log.chain()
    assert chain.Checkpoint.parse(str(chain.Checkpoint(chain=name, seq=0, digest=chain.GENESIS))).chain == name
    assert await store.access_log.chain() == name


async def test_an_empty_log_takes_over_the_name_of_another_chain(store: Store) -> None:
    name = str(uuid.uuid4())
    await store.access_log.adopt_chain(name)
    await store.access_log.adopt_chain(name)
    assert await store.access_log.chain() == name
    await changes(store, 2)
    assert await faults(store) == []


async def test_a_log_with_a_record_keeps_the_name_of_its_chain(store: Store) -> None:
    await changes(store, 1)
    name = await store.access_log.chain()
    await store.access_log.adopt_chain(name)
    with pytest.raises(NotAllowed, match="keeps its name"):
        await store.access_log.adopt_chain(str(uuid.uuid4()))
    assert await store.access_log.chain() == name


async def test_appending_returns_each_records_place(store: Store) -> None:
    body = records.change(await store.access_log.chain())
    (first,) = await store.access_log.append([body])
    assert first == chain.Head(seq=1, digest=chain.digest(chain.GENESIS, body, 1))


async def test_a_group_is_chained_in_its_order(store: Store) -> None:
    name = await store.access_log.chain()
    bodies = [records.change(name, number=number) for number in range(3)]
    places = await store.access_log.append(bodies)
    previous = chain.GENESIS
    for seq, (body, place) in enumerate(zip(bodies, places, strict=True), start=1):
        previous = chain.digest(previous, body, seq)
        assert place == chain.Head(seq=seq, digest=previous)


async def test_the_head_is_the_last_place(store: Store) -> None:
    *_, last = await changes(store, 3)
    assert await store.access_log.head() == last


async def test_appending_nothing_is_no_fault(store: Store) -> None:
    assert await store.access_log.append([]) == ()


async def test_the_body_is_kept_as_exactly_that_text(store: Store) -> None:
    body = records.change(await store.access_log.chain(), note='"\\ \t € 𝄞 \u2028 \x7f', z=1, a=[{}, None, True])
    (place,) = await store.access_log.append([body])
    assert (await store.access_log.get(place.seq)).body == body


async def test_the_columns_are_those_of_the_body(store: Store) -> None:
    of = records.invocation()
    name = await store.access_log.chain()
    body = records.finished(
        name, of, lease=LEASE, version=2**31 - 1, outcome="timed_out", at="2026-11-21T01:02:03.000000Z"
    )
    (place,) = await store.access_log.append([body])
    assert (await store.access_log.get(place.seq)).columns == chain.derived(json.loads(body))


async def test_the_columns_of_a_change_are_mostly_empty(store: Store) -> None:
    body = records.change(await store.access_log.chain(), "alias.move")
    (place,) = await store.access_log.append([body])
    found = (await store.access_log.get(place.seq)).columns
    assert set(found) == set(chain.COLUMNS)
    assert found == chain.derived(json.loads(body))


async def test_a_record_that_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(RecordNotFound, match="1"):
        await store.access_log.get(1)


async def test_the_same_kind_of_an_invocation_is_appended_once(store: Store) -> None:
    name, of = await store.access_log.chain(), records.invocation()
    body = records.started(name, of, lease=LEASE)
    first = await store.access_log.append([body])
    again = await store.access_log.append([body])
    assert again == first
    assert len(await everything(store)) == 1


async def test_a_retried_group_appends_only_what_is_not_there(store: Store) -> None:
    name = await store.access_log.chain()
    bodies = [records.started(name, records.invocation(), lease=LEASE) for _ in range(3)]
    first = await store.access_log.append(bodies[:2])
    again = await store.access_log.append(bodies)
    assert again[:2] == first
    assert again[2].seq == 3
    assert await faults(store) == []


async def test_a_place_tells_whether_it_is_anothers(store: Store) -> None:
    name, of = await store.access_log.chain(), records.invocation()
    lost = records.finished(name, of, lease=LEASE, outcome="lost")
    late = records.finished(name, of, lease=LEASE, outcome="succeeded")
    (first,) = await store.access_log.append([lost])
    (own,) = await store.access_log.append([lost])
    (others,) = await store.access_log.append([late])
    assert first == own == others
    assert [first.other, own.other, others.other] == [False, False, True]


async def test_a_group_tells_of_each_place_whether_it_is_anothers(store: Store) -> None:
    name, of, beside = await store.access_log.chain(), records.invocation(), records.invocation()
    first = records.finished(name, of, lease=LEASE, outcome="lost")
    second = records.finished(name, of, lease=LEASE, outcome="succeeded")
    third = records.finished(name, beside, lease=LEASE)
    places = await store.access_log.append([first, second, third])
    assert [(place.seq, place.other) for place in places] == [(1, False), (1, True), (2, False)]
    again = await store.access_log.append(
        [first, second, third, records.finished(name, of, lease=LEASE, outcome="failed")]
    )
    assert [place.other for place in again] == [False, True, False, True]


async def test_the_same_record_twice_in_one_group_is_appended_once(store: Store) -> None:
    body = records.started(await store.access_log.chain(), records.invocation(), lease=LEASE)
    first, second = await store.access_log.append([body, body])
    assert first == second
    assert (await store.access_log.head()).seq == 1


async def test_changes_are_appended_as_often_as_they_come(store: Store) -> None:
    body = records.change(await store.access_log.chain())
    await store.access_log.append([body, body])
    assert (await store.access_log.head()).seq == 2


async def test_one_bad_body_does_not_take_its_neighbours_with_it(store: Store) -> None:
    name = await store.access_log.chain()
    before, after = records.change(name, number=1), records.change(name, number=2)
    with pytest.raises(MerError):
        await store.access_log.append([before, NO_OBJECT, after])
    assert [record.body for record in await everything(store)] == [before, after]
    assert await faults(store) == []


@pytest.mark.parametrize(
    "fields",
    [{"at": "2026-11-21T12:00:00Z"}, {"at": "yesterday"}, {"kind": "gossip"}],
    ids=["a time without microseconds", "no time", "an unknown kind"],
)
async def test_a_body_that_no_column_can_tell_is_refused(store: Store, fields: dict[str, Any]) -> None:
    body = records.body(await store.access_log.chain(), **{"kind": "change", **fields})
    with pytest.raises(MerError):
        await store.access_log.append([body])
    assert await store.access_log.head() == chain.EMPTY


async def test_a_log_goes_on_after_a_refused_body(store: Store) -> None:
    with pytest.raises(MerError):
        await store.access_log.append(["{"])
    await changes(store, 1)
    assert (await store.access_log.head()).seq == 1


async def test_what_was_appended_verifies(store: Store) -> None:
    name = await store.access_log.chain()
    for _ in range(3):
        of = records.invocation()
        await store.access_log.append([records.started(name, of, lease=LEASE), records.change(name)])
        await store.access_log.append([records.finished(name, of, lease=LEASE)])
    assert await faults(store) == []


async def test_concurrent_appends_give_one_chain_and_lose_nothing(store: Store) -> None:
    name = await store.access_log.chain()

    async def write(writer: int) -> list[chain.Head]:
        return [
            place
            for number in range(10)
            for place in await store.access_log.append([records.change(name, writer=writer, number=number)])
        ]

    places = itertools.chain.from_iterable(await asyncio.gather(*(write(writer) for writer in range(8))))
    assert sorted(place.seq for place in places) == list(range(1, 81))
    assert await faults(store) == []
    told = [
        (json.loads(record.body)["writer"], json.loads(record.body)["number"]) for record in await everything(store)
    ]
    assert sorted(told) == [(writer, number) for writer in range(8) for number in range(10)]


async def test_each_writers_records_keep_its_order(store: Store) -> None:
    name = await store.access_log.chain()

    async def write(writer: int) -> None:
        for number in range(5):
            await store.access_log.append([records.change(name, writer=writer, number=number)])

    await asyncio.gather(*(write(writer) for writer in range(4)))
    bodies = [json.loads(record.body) for record in await everything(store)]
    for writer in range(4):
        assert [body["number"] for body in bodies if body["writer"] == writer] == [0, 1, 2, 3, 4]


async def test_scan_reads_between_two_places(store: Store) -> None:
    await changes(store, 5)
    found = [record.seq async for chunk in store.access_log.scan(after=1, until=4) for record in chunk]
    assert found == [2, 3, 4]


async def test_scan_of_a_long_log_comes_in_pieces(store: Store) -> None:
    await changes(store, 2500)
    sizes = [len(chunk) async for chunk in store.access_log.scan()]
    assert sum(sizes) == 2500
    assert len(sizes) > 1


async def test_a_scan_can_be_left_early(store: Store) -> None:
    await changes(store, 2500)
    async for chunk in store.access_log.scan():
        assert chunk[0].seq == 1
        break
    await changes(store, 1)
    assert (await store.access_log.head()).seq == 2501


async def test_others_can_append_while_a_scan_runs(store: Store) -> None:
    await changes(store, 2500)
    seen = 0
    async for chunk in store.access_log.scan(until=2500):
        await changes(store, 1)
        seen += len(chunk)
    assert seen == 2500


async def test_the_records_of_an_invocation_come_oldest_first(store: Store) -> None:
    name, of = await store.access_log.chain(), records.invocation()
    bodies = [records.started(name, of, lease=LEASE), records.finished(name, of, lease=LEASE, outcome="lost")]
    bodies.append(records.body(name, "late", invocation=of, outcome="succeeded"))
    for body in bodies:
        await store.access_log.append([records.change(name), body])
    assert [record.body for record in await store.access_log.of_invocation(of)] == bodies


async def test_an_invocation_that_nobody_made_has_no_records(store: Store) -> None:
    assert await store.access_log.of_invocation(records.invocation()) == ()


async def test_a_page_lists_newest_first(store: Store) -> None:
    await changes(store, 5)
    first = await store.access_log.page(AccessFilter(), limit=3)
    rest = await store.access_log.page(AccessFilter(), after=first.next, limit=3)
    assert [record.seq for record in first.items] == [5, 4, 3]
    assert ([record.seq for record in rest.items], rest.next) == ([2, 1], None)


async def test_a_page_does_not_shift_while_others_append(store: Store) -> None:
    await changes(store, 4)
    first = await store.access_log.page(AccessFilter(), limit=2)
    await changes(store, 2)
    second = await store.access_log.page(AccessFilter(), after=first.next, limit=2)
    assert [record.seq for record in second.items] == [2, 1]


async def test_a_place_that_is_no_number_is_a_usage_error(store: Store) -> None:
    with pytest.raises(UsageError):
        await store.access_log.page(AccessFilter(), after="1 OR 1=1")


FILTERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "kind": ({"kind": RecordKind.CHANGE}, ["change"]),
    "model": ({"model": "digits"}, ["b finished", "a finished", "b started", "a started"]),
    "server": ({"server": "gpu"}, ["b finished", "b started"]),
    "actor": ({"actor": "grace"}, ["refused"]),
    "outcome": ({"outcome": Outcome.FAILED}, ["b finished"]),
    "since": ({"since": records.at(30)}, ["change", "refused", "b finished"]),
    "until is exclusive": ({"until": records.at(10)}, ["a started"]),
    "between": ({"since": records.at(10), "until": records.at(30)}, ["a finished", "b started"]),
    "model and day": (
        {"model": "digits", "since": records.at(20), "until": records.at(31)},
        ["b finished", "a finished"],
    ),
    "kind and server": ({"kind": RecordKind.STARTED, "server": "local"}, ["a started"]),
    "nothing that fits": ({"model": "digits", "actor": "grace"}, []),
}


async def fill(store: Store) -> dict[str, InvocationId]:
    name = await store.access_log.chain()
    of = {each: records.invocation() for each in ("a", "b", "refused")}

    def when(seconds: int) -> str:
        return records.at(seconds).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    await store.access_log.append(
        [
            records.started(name, of["a"], lease=LEASE, note="a started", at=when(0)),
            records.started(name, of["b"], lease=LEASE, note="b started", at=when(10), server="gpu"),
            records.finished(name, of["a"], lease=LEASE, note="a finished", at=when(20)),
            records.finished(
                name, of["b"], lease=LEASE, note="b finished", at=when(30), server="gpu", outcome="failed"
            ),
            records.refused(name, of["refused"], note="refused", at=when(40), actor={"user": "grace", "uid": 1}),
            records.change(name, note="change", at=when(50)),
        ]
    )
    return of


def notes(found: tuple[AccessRecord, ...]) -> list[str]:
    return [json.loads(record.body)["note"] for record in found]


@pytest.mark.parametrize(("where", "expected"), FILTERS.values(), ids=FILTERS)
async def test_a_filter_keeps_what_fits(store: Store, where: dict[str, Any], expected: list[str]) -> None:
    await fill(store)
    assert notes((await store.access_log.page(AccessFilter(**where))).items) == expected


async def test_a_filter_by_invocation_keeps_its_records(store: Store) -> None:
    of = await fill(store)
    page = await store.access_log.page(AccessFilter(invocation=of["a"]))
    assert notes(page.items) == ["a finished", "a started"]


async def test_pages_of_a_filter_follow_each_other(store: Store) -> None:
    await fill(store)
    first = await store.access_log.page(AccessFilter(model="digits"), limit=3)
    rest = await store.access_log.page(AccessFilter(model="digits"), after=first.next, limit=3)
    assert notes(first.items) == ["b finished", "a finished", "b started"]
    assert (notes(rest.items), rest.next) == (["a started"], None)


# a clock an hour slow and one that is set back: what was written last is not what is latest
CLOCKS = [0, 3600, 10, 3610, 20, 3620, 7200, 30, 5, 40]
WINDOWS: list[dict[str, Any]] = [
    {"since": 0},
    {"since": 30},
    {"until": 30},
    {"since": 5, "until": 3610},
    {"since": 3600, "until": 7200},
    {"since": 10, "until": 3700, "model": "digits"},
    {"until": 3601, "outcome": Outcome.FAILED},
    {"since": 7201},
]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
async def test_pages_of_a_time_are_by_place_whatever_the_writers_clocks_say(
    store: Store, window: dict[str, Any]
) -> None:
    name = await store.access_log.chain()
    bodies = [
        records.finished(
            name,
            records.invocation(),
            lease=LEASE,
            model="digits" if number % 3 else "other",
            outcome="failed" if number % 2 else "succeeded",
            at=records.at(seconds).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        )
        for number, seconds in enumerate(CLOCKS)
    ]
    await store.access_log.append(bodies)
    expected = [
        number + 1
        for number, seconds in reversed(list(enumerate(CLOCKS)))
        if window.get("since", 0) <= seconds < window.get("until", 10_000)
        and ("model" not in window or number % 3)
        and ("outcome" not in window or number % 2)
    ]
    times = {key: records.at(value) for key, value in window.items() if key in ("since", "until")}
    where = AccessFilter(**{**window, **times})
    for limit in (1, 2, 3, 50):
        page = await store.access_log.page(where, limit=limit)
        found = [record.seq for record in page.items]
        while page.next:
            page = await store.access_log.page(where, after=page.next, limit=limit)
            found += [record.seq for record in page.items]
        assert found == expected, f"{limit} a page"


async def test_a_page_in_a_transaction_and_in_another_store_is_the_same(database: Database, store: Store) -> None:
    if not database.shared:
        pytest.skip("one store at a time")
    await changes(store, 3)
    other = database.connect()
    await other.open()
    try:
        assert await other.access_log.page(AccessFilter()) == await store.access_log.page(AccessFilter())
        assert await other.access_log.chain() == await store.access_log.chain()
    finally:
        await other.close()


async def test_started_opens_an_invocation(store: Store) -> None:
    name, of = await store.access_log.chain(), records.invocation()
    (place,) = await store.access_log.append([records.started(name, of, lease=LEASE, server="gpu")])
    (found,) = await store.access_log.unfinished(LEASE)
    assert (found.invocation, found.lease, found.started_seq) == (of, LEASE, place.seq)
    assert (found.model, found.server) == ("digits", "gpu")


async def test_finished_closes_it(store: Store) -> None:
    name, of = await store.access_log.chain(), records.invocation()
    await store.access_log.append([records.started(name, of, lease=LEASE)])
    await store.access_log.append([records.finished(name, of, lease=LEASE)])
    assert await store.access_log.unfinished(LEASE) == ()


async def test_finished_closes_it_whichever_lease_it_names(store: Store) -> None:
    name, of, other = await store.access_log.chain(), records.invocation(), records.invocation()
    await store.access_log.append([records.started(name, each, lease=LEASE) for each in (of, other)])
    await store.access_log.append([records.finished(name, of, lease=LeaseId(uuid7()))])
    assert [each.invocation for each in await store.access_log.unfinished()] == [other]


async def test_what_begins_and_ends_under_several_leases_in_one_group_is_told_apart(store: Store) -> None:
    name, leases = await store.access_log.chain(), [LeaseId(uuid7()) for _ in range(3)]
    of = [records.invocation() for _ in range(6)]
    await store.access_log.append(
        [records.started(name, each, lease=leases[number % 3]) for number, each in enumerate(of)]
    )
    more = records.invocation()
    await store.access_log.append(
        [
            records.finished(name, of[0], lease=leases[0]),
            records.started(name, more, lease=leases[1]),
            records.finished(name, of[4], lease=leases[1]),
        ]
    )
    found = {lease: [each.invocation for each in await store.access_log.unfinished(lease)] for lease in leases}
    assert found == {leases[0]: [of[3]], leases[1]: [of[1], more], leases[2]: [of[2], of[5]]}
    assert [each.invocation for each in await store.access_log.unfinished()] == [of[1], of[2], of[3], of[5], more]


@pytest.mark.parametrize("lacking", ["lease", "model", "server"])
async def test_what_started_under_nothing_is_refused(store: Store, lacking: str) -> None:
    fields = {"invocation": records.invocation(), "lease": LEASE, "model": "digits", "server": "local"}
    body = records.body(await store.access_log.chain(), "started", **{**fields, lacking: None})
    with pytest.raises(MerError):
        await store.access_log.append([body])
    assert await store.access_log.head() == chain.EMPTY


async def test_started_and_finished_in_one_group_leave_nothing_open(store: Store) -> None:
    name, of = await store.access_log.chain(), records.invocation()
    await store.access_log.append([records.started(name, of, lease=LEASE), records.finished(name, of, lease=LEASE)])
    assert await store.access_log.unfinished(LEASE) == ()


async def test_a_retried_started_does_not_open_a_finished_invocation(store: Store) -> None:
    name, of = await store.access_log.chain(), records.invocation()
    body = records.started(name, of, lease=LEASE)
    await store.access_log.append([body, records.finished(name, of, lease=LEASE)])
    await store.access_log.append([body])
    assert await store.access_log.unfinished(LEASE) == ()


async def test_refusals_and_changes_open_nothing(store: Store) -> None:
    name = await store.access_log.chain()
    await store.access_log.append(
        [records.refused(name, records.invocation(), lease=LEASE, model="digits", server="local"), records.change(name)]
    )
    assert await store.access_log.unfinished(LEASE) == ()
    assert await store.access_log.unfinished_by_server("digits") == {}


async def test_the_unfinished_of_a_lease_come_oldest_first_and_are_its_own(store: Store) -> None:
    name, other = await store.access_log.chain(), LeaseId(uuid7())
    of = [records.invocation() for _ in range(3)]
    for each in reversed(of):
        await store.access_log.append([records.started(name, each, lease=LEASE)])
    await store.access_log.append([records.started(name, records.invocation(), lease=other)])
    assert [each.invocation for each in await store.access_log.unfinished(LEASE)] == list(reversed(of))
    assert len(await store.access_log.unfinished()) == len(of) + 1


async def test_unfinished_invocations_of_a_model_are_counted_by_server(store: Store) -> None:
    name = await store.access_log.chain()
    for server, model in (("gpu", "digits"), ("gpu", "digits"), ("local", "digits"), ("far", "other")):
        await store.access_log.append(
            [records.started(name, records.invocation(), lease=LeaseId(uuid7()), server=server, model=model)]
        )
    done = records.invocation()
    await store.access_log.append(
        [
            records.started(name, done, lease=LEASE, server="idle"),
            records.finished(name, done, lease=LEASE, server="idle"),
        ]
    )
    assert await store.access_log.unfinished_by_server("digits") == {"gpu": 2, "local": 1}


async def test_a_long_body_fits(store: Store) -> None:
    body = records.change(await store.access_log.chain(), description="x" * 1_000_000)
    (place,) = await store.access_log.append([body])
    assert (await store.access_log.get(place.seq)).body == body
