"""The quick look at rows of COPY finds what the close look finds, whatever a body or a row was made into."""

from __future__ import annotations

import datetime as dt
import json
import struct
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mer.core.canonical import canonical
from mer.core.chain import EMPTY, Checkpoint, Fault, Head, Verifier, digest
from mer.dal.postgres.copied import EPOCH, MICROSECOND, CopiedRecords, Layouts, record

CHAIN = "0193b2f0-0000-7000-8000-000000000001"
INVOCATION = "0193b2f0-1111-7000-8000-000000000001"
LEASE = "0193b2f0-2222-7000-8000-000000000001"
FIELDS = {
    "chain": CHAIN, "kind": "started", "at": "2026-11-21T01:10:34.123456Z", "invocation": INVOCATION, "lease": LEASE,
    "actor": {"user": "ada", "uid": 1000}, "model": "digits", "version": 2, "server": "local",
}  # fmt: skip
BODY = canonical(FIELDS)
AT = (dt.datetime(2026, 11, 21, 1, 10, 34, 123456, tzinfo=dt.UTC) - EPOCH) // MICROSECOND
COLUMNS: dict[str, Any] = {
    "at": AT, "invocation": INVOCATION, "lease": LEASE, "kind": "started", "actor": "ada", "model": "digits",
    "version": 2, "server": "local", "outcome": None, "action": None,
}  # fmt: skip


def field(value: object, *, size: int = 8) -> bytes:
    if value is None:
        return struct.pack(">i", -1)
    raw = value.to_bytes(size, "big", signed=True) if isinstance(value, int) else str(value).encode()
    return struct.pack(">i", len(raw)) + raw


def row(
    body: str = BODY, *, seq: int = 1, previous: str = EMPTY.digest, told: str | None = None, **given: Any
) -> bytes:
    columns = {**COLUMNS, **given}
    told = digest(previous, body, seq) if told is None else told
    fields = [field(body), field(seq), field(previous), field(told), field(columns.pop("at"))]
    fields += [field(value, size=4) for value in columns.values()]
    return struct.pack(">h", len(fields)) + b"".join(fields)


def found(links: Any, checkpoint: Checkpoint | None = None) -> tuple[list[Fault], Head, int]:
    verifier = Verifier(chain=CHAIN, checkpoint=checkpoint)
    verifier.feed(links)
    return verifier.finish(), verifier.head, verifier.records


def same(*rows: bytes, checkpoint: Checkpoint | None = None) -> list[Fault]:
    """Return the faults, which have to be those of the records taken one by one."""
    quick = found(CopiedRecords(rows, Layouts()), checkpoint)
    assert quick == found([record(each) for each in rows], checkpoint)
    return quick[0]


def chained(*bodies: str) -> list[bytes]:
    rows, previous = [], EMPTY.digest
    for seq, body in enumerate(bodies, 1):
        rows.append(row(body, seq=seq, previous=previous))
        previous = digest(previous, body, seq)
    return rows


def test_sound_rows_need_no_close_look() -> None:
    rows = CopiedRecords(chained(BODY, BODY, BODY), Layouts())
    held, head = rows.holding(chain=CHAIN, after=EMPTY, start=0, most=3)
    assert (held, head) == (3, Head(seq=3, digest=rows[2].digest))


@pytest.mark.parametrize(
    "absent", [("invocation",), ("lease",), ("invocation", "lease"), ("actor", "model", "version")]
)
def test_rows_without_some_columns_need_none_either(absent: tuple[str, ...]) -> None:
    body = canonical({name: value for name, value in FIELDS.items() if name not in absent})
    rows = CopiedRecords([row(body, **dict.fromkeys(absent))], Layouts())
    assert rows.holding(chain=CHAIN, after=EMPTY, start=0, most=1)[0] == 1


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_that_differs_or_is_absent_is_a_fault(name: str) -> None:
    other: Any = {"at": AT + 1, "version": 3, "invocation": str(uuid.UUID(int=1)), "lease": str(uuid.UUID(int=1))}
    sound = same(row())
    assert sound == []
    assert len(same(row(**{name: other.get(name, "other")}))) == 1
    if COLUMNS[name] is not None:
        assert len(same(row(**{name: None}))) == 1


def test_an_empty_text_is_not_an_absent_one() -> None:
    assert len(same(row(outcome=""))) == 1


@pytest.mark.parametrize(
    "at",
    [
        "2026-11-21T01:10:34.12345Z", "2026-11-21T01:10:34.-12345Z", "2026-11-21T01:10:34.1_3456Z",
        "2026-11-21T01:10:34. 12345Z", "2026-11-21T01:10:34.١٢٣٤٥٦Z", "2026-11-21T01:10:34,123456Z",
        "2026-11-21 01:10:34.123456Z", "20261121T011034.123456Z", "2026-11-21T01:10:34.123456+", "", "infinity",
    ],
)  # fmt: skip
@pytest.mark.parametrize("count", [AT, AT - 111111, AT - 123456 - 12345, AT - 123456 + 12345, 2**63 - 1, -(2**63)])
def test_a_time_that_is_written_otherwise_is_a_fault(at: str, count: int) -> None:
    assert same(row(canonical({**FIELDS, "at": at}), at=count))


@given(
    st.sampled_from((*FIELDS, "outcome", "action", "more")),
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
)
def test_a_body_with_a_field_of_any_value(name: str, value: Any) -> None:
    body = json.dumps({**FIELDS, name: value})
    same(row(body))
    if name in COLUMNS and name not in ("at", "invocation", "lease", "version") and isinstance(value, str | None):
        same(row(body, **{name: value}))


@given(st.integers(2, 400), st.integers(0, 4), st.binary(max_size=3))  # the first two are COPY's own, and nobody's row
def test_a_row_with_bytes_in_the_place_of_others(start: int, length: int, piece: bytes) -> None:
    sound = row()
    rows = CopiedRecords([sound[:start] + piece + sound[start + length :]], Layouts())
    held, _ = rows.holding(chain=CHAIN, after=EMPTY, start=0, most=1)
    try:
        close = found([rows[0]])[0]
    except ValueError:
        assert not held
        return
    if held:
        assert close == []


@pytest.mark.parametrize("length", [0, 63, 65])
def test_a_digest_of_another_length_is_a_fault(length: int) -> None:
    rows = chained(BODY, BODY, BODY)
    assert {fault.seq for fault in same(row(told="0" * length), *rows[1:])} == {1, 2}


def test_after_a_fault_the_rest_is_looked_at_as_it_stands() -> None:
    one, two, three, four = chained(BODY, BODY, BODY, BODY)
    assert [fault.seq for fault in same(one, row(seq=2, previous=record(two).previous, model="x"), three, four)] == [2]
    assert [fault.seq for fault in same(one, three, four)] == [2]
    assert same(one, two, two, three)


@pytest.mark.parametrize("seq", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("right", [True, False])
def test_a_checkpoint_is_met_as_by_the_close_look(seq: int, right: bool) -> None:
    rows = chained(BODY, BODY, BODY)
    digests = [EMPTY.digest, *(record(each).digest for each in rows), "e" * 64]
    checkpoint = Checkpoint(chain=CHAIN, seq=seq, digest=digests[seq] if right else "f" * 64)
    assert bool(same(*rows, checkpoint=checkpoint)) is (not right or seq == 4)
