"""A block of records is proven only where the close look finds no fault, whatever a body or a row was made into."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mer.core.canonical import canonical
from mer.core.chain import EMPTY, Fault, Head, Verifier, digest
from mer.dal.postgres.blocks import Block, Blocks
from mer.dal.postgres.columns import EPOCH, MAX_SECONDS, MICROSECOND, Seconds
from tests.support.blocks import Row, joined, record

CHAIN = "0193b2f0-0000-7000-8000-000000000001"
INVOCATION = "0193b2f0-1111-7000-8000-000000000001"
LEASE = "0193b2f0-2222-7000-8000-000000000001"
ABSENT = uuid.UUID("0193b2f0-3333-7000-8000-00000000abcd")
FIELDS: dict[str, Any] = {
    "chain": CHAIN, "kind": "started", "at": "2026-11-21T01:10:34.123456Z", "invocation": INVOCATION, "lease": LEASE,
    "actor": {"user": "ada", "uid": 1000}, "model": "digits", "version": 2, "server": "local",
}  # fmt: skip
BODY = canonical(FIELDS)
AT = (dt.datetime(2026, 11, 21, 1, 10, 34, 123456, tzinfo=dt.UTC) - EPOCH) // MICROSECOND
COLUMNS: Row = {
    "at": AT, "invocation": INVOCATION, "lease": LEASE, "kind": "started", "actor": "ada", "model": "digits",
    "version": 2, "server": "local", "outcome": None, "action": None,
}  # fmt: skip


def row(body: str | None = BODY, **given: Any) -> Row:
    return {**COLUMNS, "body": body, **given}


def changed(**given: Any) -> Row:
    """Return a row whose body and columns are other ones than usual, and agree."""
    fields = {**FIELDS, **given}
    body = canonical({name: value for name, value in fields.items() if value is not None})
    columns = {name: value for name, value in given.items() if name in COLUMNS}
    return row(
        body, **{**columns, **({"actor": given["actor"] and given["actor"]["user"]} if "actor" in given else {})}
    )


def chained(*rows: Row, after: Head = EMPTY) -> list[Row]:
    """Return rows one behind the other; what a row says of its place already, it keeps saying."""
    found, seq, last = [], after.seq, after.digest
    for each in rows:
        seq += 1
        told = digest(last, each["body"] or "", seq)
        found.append({"seq": seq, "previous": last, "digest": told, **each})
        last = told
    return found


def close(rows: Sequence[Row], after: Head = EMPTY) -> tuple[list[Fault], Head, int]:
    verifier = Verifier(chain=CHAIN, after=after)
    verifier.feed(map(record, rows))
    return verifier.finish(), verifier.head, verifier.records


def proven(rows: Sequence[Row], after: Head = EMPTY) -> bool:
    """Tell whether the block of these rows is proven; then the close look finds no fault, and ends at the same place."""
    part = Blocks(chain=CHAIN, absent=ABSENT).verified(Block.of(joined(rows, absent=ABSENT)), after)
    if part is None:
        return False
    assert close(rows, after) == ([], part.head, part.records)
    assert (part.after, part.faults, part.passed) == (after, (), False)
    return True


FINISHED = changed(
    kind="finished", outcome="succeeded", attempts=1, reference="digits@100%é", timings={"queue_us": 3, "run_us": 210}
)
CHANGE = changed(
    kind="change", action="model.alias", invocation=None, lease=None, version=None, actor={"user": "eva é"}
)


@pytest.mark.parametrize("number", [0, 1, 2, 3, 128])
def test_sound_records_are_proven(number: int) -> None:
    assert proven(chained(*([row(), FINISHED, CHANGE] * 43)[:number]))


def test_records_are_proven_behind_any_place() -> None:
    after = Head(seq=10**12 - 2, digest="ab" * 32)
    assert proven(chained(row(), FINISHED, CHANGE, after=after), after)


@pytest.mark.parametrize("name", ["invocation", "lease", "actor", "model", "version", "server", "kind"])
def test_records_without_a_column_are_proven(name: str) -> None:
    assert proven(chained(row(), changed(**{name: None}), row()))
    assert proven(chained(changed(**{name: None})))


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("name", [*COLUMNS, "previous", "digest", "body"])
def test_a_column_that_differs_or_is_absent_is_in_doubt(name: str, index: int) -> None:
    other: Any = {"at": AT + 1, "version": 3, "invocation": str(uuid.UUID(int=1)), "lease": str(uuid.UUID(int=1))}
    for value in {other.get(name, "other"), other.get(name, ""), None} - {COLUMNS.get(name, "")}:
        forged = chained(row(), row(), row())
        forged[index] = {**forged[index], name: value}
        assert not proven(forged)


@pytest.mark.parametrize("name", ["outcome", "action", "invocation"])
def test_what_stands_for_null_is_taken_for_nothing_else(name: str) -> None:
    """Who wrote a record could not know it: each verification has its own."""
    sound = chained(changed(**{name: None}))
    for absent in (ABSENT, uuid.uuid4()):
        forged = str(ABSENT) if name == "invocation" else ABSENT.hex[16:]
        block = Block.of(joined([{**sound[0], name: forged}], absent=absent))
        assert (Blocks(chain=CHAIN, absent=absent).verified(block, EMPTY) is None) is (absent != ABSENT)
    assert proven(sound)


def test_an_empty_text_is_not_an_absent_one() -> None:
    assert not proven(chained({**row(), "outcome": ""}))
    assert proven(chained(changed(outcome=""), row()))


@pytest.mark.parametrize("name", ["kind", "actor", "model", "server", "outcome", "action"])
def test_a_value_does_not_reach_into_the_next_record_s(name: str) -> None:
    def said(value: str) -> Any:
        return {"user": value} if name == "actor" else value

    one, two = changed(**{name: said("a\nb")}), changed(**{name: said("c")})
    assert not proven(chained({**one, name: "a"}, {**two, name: "b\nc"}))
    one, two = changed(**{name: said("a")}), changed(**{name: said("b\nc")})
    assert not proven(chained({**one, name: "a\nb"}, {**two, name: "c"}))


@pytest.mark.parametrize("name", ["invocation", "lease"])
@pytest.mark.parametrize("cut", [1, 9, 20, 35])
def test_an_identifier_does_not_reach_into_the_next_record_s(name: str, cut: int) -> None:
    whole = INVOCATION + LEASE
    for number in (36 - cut, 36 + cut):
        bodies = [canonical({**FIELDS, name: value}) for value in (whole[:number], whole[number:])]
        assert not proven(chained(row(bodies[0], **{name: INVOCATION}), row(bodies[1], **{name: LEASE})))


@pytest.mark.parametrize(
    "written",
    [INVOCATION.upper(), INVOCATION.replace("-", ""), "{" + INVOCATION + "}", "urn:uuid:" + INVOCATION, INVOCATION + "-",
     INVOCATION[:8] + INVOCATION[9:] + "-", INVOCATION.replace("-", "\n"), ""],
)  # fmt: skip
def test_an_identifier_that_is_written_otherwise_is_in_doubt(written: str) -> None:
    assert not proven(chained(row(canonical({**FIELDS, "invocation": written}))))
    assert not proven(chained(row(), row(canonical({**FIELDS, "lease": written})), row()))


@pytest.mark.parametrize(
    "at",
    [
        "2026-11-21T01:10:34.12345Z", "2026-11-21T01:10:34.-12345Z", "2026-11-21T01:10:34.1_3456Z",
        "2026-11-21T01:10:34. 12345Z", "2026-11-21T01:10:34.١٢٣٤٥٦Z", "2026-11-21T01:10:34,123456Z",
        "2026-11-21 01:10:34.123456Z", "20261121T011034.123456Z", "2026-11-21T01:10:34.123456+", "", "infinity",
        "2026-11-21T01:10:34.+23456Z", "2026-11-21T1:10:034.123456Z", "2026-W47-6T01:10:34.123456Z",
    ],
)  # fmt: skip
@pytest.mark.parametrize("count", [AT, AT - 111111, AT - 123456 - 12345, AT - 123456 + 12345, 2**63 - 1, -(2**63)])
def test_a_time_that_is_written_otherwise_is_in_doubt(at: str, count: int) -> None:
    forged = row(canonical({**FIELDS, "at": at}), at=count)
    assert not proven(chained(forged))
    assert not proven(chained(row(), forged, row()))


def test_times_do_not_reach_into_the_next_record_s() -> None:
    one, two = "2026-11-21T01:10:34.123456Z\n2026-11-21T01:10:34.12345", "6Z"
    assert not proven(chained(row(canonical({**FIELDS, "at": one})), row(canonical({**FIELDS, "at": two}))))


@given(st.timedeltas(min_value=dt.timedelta(days=-365_000), max_value=dt.timedelta(days=2_900_000)))
def test_a_time_of_any_year_of_four_digits_is_proven(since: dt.timedelta) -> None:
    count, at = since // MICROSECOND, EPOCH + since
    told = f"{at.replace(microsecond=0, tzinfo=None).isoformat()}.{at.microsecond:06}Z"
    part = Blocks(chain=CHAIN, absent=ABSENT).verified(
        Block.of(joined(chained(row(canonical({**FIELDS, "at": told}), at=count)), absent=ABSENT)), EMPTY
    )
    assert part is not None


def test_few_seconds_are_kept() -> None:
    seconds = Seconds()
    for number in range(MAX_SECONDS + 2):
        assert seconds[(EPOCH + dt.timedelta(seconds=number)).isoformat()[:19]] == number * 1_000_000
    assert len(seconds) <= MAX_SECONDS


@given(
    st.sampled_from((*FIELDS, "outcome", "action", "more")),
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just({"user": None}),
)
def test_a_body_with_a_field_of_any_value(name: str, value: Any) -> None:
    body = json.dumps({**FIELDS, name: value})
    proven(chained(row(), row(body)))
    if name in COLUMNS and name not in ("at", "invocation", "lease", "version") and isinstance(value, str | None):
        try:
            proven(chained(row(), row(body, **{name: value})))
        except UnicodeEncodeError:
            return  # no database has it


@pytest.mark.parametrize(
    ("body", "sound"),
    [
        (BODY.replace('"kind"', '"model":"eve","kind"', 1), True), (BODY.replace('"server"', '"model":"eve","server"'), False),
        (BODY.replace("digits", "digit\\u0073"), True), (BODY + " ", True), ("[" + BODY + "]", False), ("{}", False),
        ("", False), (BODY.replace('"version":2', '"version":2.0'), False), (BODY.replace(CHAIN, LEASE), False),
        (BODY.replace("{", "{\n", 1), None), ("[" * 100_000, False), (BODY.replace("ada", "\\ud800"), False),
        (canonical({**FIELDS, "reference": "x" * 40_000}), None),
    ],
)  # fmt: skip
def test_an_unusual_body(body: str, sound: bool | None) -> None:
    """Such a one may be proven where it says what its columns do; what is sound and unusual may be in doubt (None)."""
    rows = chained(row(), row(body), row())
    assert (close(rows)[0] == []) is (sound is not False)
    assert proven(rows) is (sound is True)


@given(st.data())
def test_a_row_with_bytes_in_the_place_of_others(data: st.DataObject) -> None:
    rows = chained(row(), FINISHED, CHANGE)
    sound = bytes(joined(rows, absent=ABSENT))
    start = data.draw(st.integers(14, len(sound)))  # before that stand the number of fields and where it was asked for
    length = data.draw(st.integers(0, 40))
    piece = data.draw(st.binary(max_size=40) | st.binary(min_size=length, max_size=length))
    mangled = sound[:start] + piece + sound[start + length :]
    try:
        part = Blocks(chain=CHAIN, absent=ABSENT).verified(Block.of(memoryview(mangled)), EMPTY)
    except ValueError:
        return
    assert part is None or mangled == sound or not part.records


def test_records_that_are_missing_twice_there_or_swapped_are_in_doubt() -> None:
    one, two, three = chained(row(), FINISHED, CHANGE)
    for rows in ([one, three], [two, three], [one, one, two], [one, two, two], [one, three, two]):
        assert not proven(rows)
    assert not proven([{**one, "seq": 2}, {**two, "seq": 1}])


@pytest.mark.parametrize("name", ["previous", "digest"])
def test_a_digest_does_not_reach_into_the_next_record_s(name: str) -> None:
    after = Head(seq=5, digest="ab" * 32)
    rows = chained(row(), row(), row(), after=after)
    whole = [each[name] for each in rows]
    for forged in (
        [f"{whole[0]} {whole[1]}", whole[2], None], [None, f"{whole[0]} {whole[1]}", whole[2]],
        [whole[0][:63], whole[0][63:] + whole[1], whole[2]], [whole[0].upper(), *whole[1:]],
    ):  # fmt: skip
        assert not proven([{**each, name: value} for each, value in zip(rows, forged, strict=True)], after)


@pytest.mark.parametrize("before", ["", "0" * 63, "a b", " ", "0" * 64 + " "])
def test_behind_a_digest_that_is_none_the_rows_are_compared_as_they_stand(before: str) -> None:
    after = Head(seq=7, digest=before)
    rows = chained(row(), row(), after=after)
    proven(rows, after)
    pieces = [*before.partition(" ")][::2]
    moved = [{**rows[0], "previous": pieces[0]}, {**rows[1], "previous": f"{pieces[1]} {rows[1]['previous']}"}]
    assert not proven(moved, after)
