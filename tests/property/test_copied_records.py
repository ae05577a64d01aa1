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

from mer.core.canonical import Json, canonical
from mer.core.chain import EMPTY, Checkpoint, Fault, Head, Verifier, digest
from mer.dal.postgres import copied
from mer.dal.postgres.copied import (
    EPOCH,
    LEARNED_OF,
    MAX_FORMS,
    MAX_FORMS_ALIKE,
    MICROSECOND,
    CopiedRecords,
    Layouts,
    record,
)
from mer.dal.postgres.forms import HOLES, MAX_BODY, MAX_TIMINGS, Form

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


FINISHED: dict[str, Json] = {
    **FIELDS, "kind": "finished", "outcome": "succeeded", "attempts": 1, "reference": "digits@100%é",
    "inputs": [{"name": "image", "sha256": "ab" * 32}, {"name": "mask"}], "outputs": [{"sha256": "cd" * 32}],
    "timings": {"queue_us": 3, "run_us": 210},
}  # fmt: skip
FINISHED_BODY = canonical(FINISHED)


def knowing(*bodies: str, **given: Any) -> Layouts:
    """Return layouts that have learned the forms of these bodies, all with the same last columns."""
    layouts = Layouts()
    for body in bodies:
        assert CopiedRecords([row(body, **given)] * LEARNED_OF, layouts).holding(
            chain=CHAIN, after=EMPTY, start=0, most=1
        )[0]
    assert sum(map(len, layouts.forms.values())) == len(bodies)
    return layouts


KNOWING = knowing(BODY)
KNOWING_FINISHED = knowing(FINISHED_BODY, kind="finished", outcome="succeeded")


def same(*rows: bytes, checkpoint: Checkpoint | None = None) -> list[Fault]:
    """Return the faults, which have to be those of the records taken one by one, whatever forms are known."""
    close = found([record(each) for each in rows], checkpoint)
    for layouts in (Layouts(), KNOWING, KNOWING_FINISHED):
        assert found(CopiedRecords(rows, layouts), checkpoint) == close
    return close[0]


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
    rows = CopiedRecords([sound[:start] + piece + sound[start + length :]], KNOWING)
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


def form(body: str) -> Form:
    made = Form.of(body.encode())
    assert made is not None
    return made


def test_a_body_of_a_known_form_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copied, "decode", None)
    other = {
        **FINISHED, "at": "2026-11-21T01:10:34.999999Z",
        "invocation": str(uuid.UUID(int=7)), "lease": str(uuid.UUID(int=8)),
        "inputs": [{"name": "image", "sha256": "12" * 32}, {"name": "mask"}],
        "timings": {"queue_us": 0, "run_us": 2**53 - 1},
    }  # fmt: skip
    columns = {"kind": "finished", "outcome": "succeeded", "at": AT - 123456 + 999999}
    forged = row(canonical(other), invocation=other["invocation"], lease=other["lease"], **columns)
    assert CopiedRecords([forged], KNOWING_FINISHED).holding(chain=CHAIN, after=EMPTY, start=0, most=1)[0] == 1


@pytest.mark.parametrize(
    "body",
    [
        BODY.replace('"kind"', '"model":"eve","kind"'), BODY.replace("{", '{"action":"a","action":"b",', 1),
        BODY.replace("digits", "digit\\u0073"), BODY + " ", "[" + BODY + "]", "{}", "", BODY.replace("local", HOLES[3]),
        BODY.replace('"version":2', '"version":2.0'), BODY.replace(INVOCATION, INVOCATION[1:]),
        canonical({**FIELDS, "reference": "x" * MAX_BODY}), canonical({**FIELDS, "at": "2026-11-21T01:10:34.12345Z"}),
        canonical({**FIELDS, "timings": {"run_us": [1] * MAX_TIMINGS}}), canonical({**FIELDS, "lease": None}),
    ],
)  # fmt: skip
def test_an_unusual_body_gives_no_form(body: str) -> None:
    assert Form.of(body.encode()) is None


@given(st.data())
def test_a_text_of_a_form_is_the_same_body_but_for_what_may_differ(data: st.DataObject) -> None:
    """Whatever a hand does to a body: where it still has the form, a reader of JSON finds what the form says."""
    text = FINISHED_BODY.encode()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        cut = data.draw(st.integers(0, 40))
        length = data.draw(st.sampled_from([cut, 1, 36]))
        piece = data.draw(
            st.binary(min_size=length, max_size=length)
            | st.sampled_from(
                [b'","model":"eve', b"\\", b'"', b"},", b'{"a":1}', b',"version":3', text[at : at + length]]
            )
        )
        text = text[:at] + piece + text[at + cut :]
    values = KNOWN.values(text)
    if values is None:
        return
    try:
        Layouts().count(*values[:2])
    except ValueError:
        return  # whoever asks for the values compares the time, which is written in one way alone
    body = json.loads(text.decode())
    second, micros, invocation, lease = (value.decode("latin-1") for value in values)
    assert (body["at"], body["invocation"], body["lease"]) == (f"{second}{micros}Z", invocation, lease)
    varying = ("at", "invocation", "lease", "inputs", "outputs", "timings")
    assert {**body, **{name: FINISHED[name] for name in varying}} == FINISHED


KNOWN = form(FINISHED_BODY)


@pytest.mark.parametrize("hole", [FIELDS["invocation"], FIELDS["lease"], "ab" * 32, "cd" * 32])
@pytest.mark.parametrize("piece", ['"', "\\", "é", "\n", "G", '","model":"eve","x":"'])
def test_nothing_but_plain_characters_fills_a_hole(hole: str, piece: str) -> None:
    filled = (piece + hole)[: len(hole)] if piece != "é" else piece + hole[2:]
    text = FINISHED_BODY.replace(hole, filled)
    assert KNOWN.values(FINISHED_BODY.encode())
    assert KNOWN.values(text.encode()) is None
    same(row(text, kind="finished", outcome="succeeded", invocation=filled if hole == INVOCATION else INVOCATION))


@pytest.mark.parametrize(
    "timings",
    [
        '{"a":1},"model":"eve","x":{}',
        "{}}",
        '{"a":01}',
        '{"a":"}',
        "",
        "7",
        '{"a":' + "1" * MAX_TIMINGS + "}",
        '{"a":1',
    ],
)
def test_timings_are_one_whole_object(timings: str) -> None:
    text = FINISHED_BODY.replace(canonical(FINISHED["timings"]), timings)
    assert KNOWN.values(text.encode()) is None
    same(row(text, kind="finished", outcome="succeeded"))


def test_a_time_that_is_written_otherwise_is_a_fault_in_a_known_form_too() -> None:
    for at in ("2026-11-21 01:10:34.123456Z", "2026-11-21T01:10:34.+23456Z", "2026-11-21T01:10:34.1_3456Z"):
        body = BODY.replace(str(FIELDS["at"]), at)
        assert form(BODY).values(body.encode())
        assert same(row(body))


def test_timings_that_are_no_utf_8_are_of_no_form() -> None:
    assert KNOWN.values(FINISHED_BODY.encode().replace(b"queue_us", b"queue\x80us")) is None


def test_few_forms_are_kept() -> None:
    layouts = Layouts()
    for number in range(MAX_FORMS_ALIKE + 2):
        body = canonical({**FIELDS, "reference": "x" * number})
        for _ in range(LEARNED_OF):
            layouts.learn(b"", body.encode())
    assert len(layouts.forms[b""]) == MAX_FORMS_ALIKE
    for number in range(MAX_FORMS):
        for _ in range(LEARNED_OF):
            layouts.learn(b"%d" % number, BODY.encode())
    assert len(layouts.forms) <= MAX_FORMS
