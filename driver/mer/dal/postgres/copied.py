"""Records of the access log as a binary COPY sends them, and the quick look that a verification takes at them.

A log has millions of records, and nearly all of them hold. To make a record of every row, and a column of every field,
would take longer than to hash it; so what the body says is laid out as the row would have it, and the two are compared
as bytes. The body itself is read only where it is of no form that is known already (forms.py). Only a row that differs is
taken apart, for core.chain.Verifier to look at closely.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Iterator, Sequence
from hashlib import sha256

from mer.core.chain import HASHED, Head, Known, User, decode
from mer.core.records import AccessRecord, Digest
from mer.dal.postgres.forms import Form

COPY = (
    "COPY (SELECT body::text, seq::bigint, previous::text, digest::text, at::timestamptz, invocation::text, lease::text,"
    " kind::text, actor::text, model::text, version::integer, server::text, outcome::text, action::text"
    " FROM mer.access WHERE seq > {after} AND seq <= {until} ORDER BY seq LIMIT {most}) TO STDOUT (FORMAT binary)"
)
"""The body first and what differs from record to record next: the rest is the same for many. The types are named, so that a
table whose columns were altered is read as what it should be."""

FIELDS = 14

EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
"""What PostgreSQL counts a timestamptz's microseconds from."""

MICROSECOND = dt.timedelta(microseconds=1)

MAX_KEPT = 4096
"""Layouts and seconds that are kept at once: a busy log has some dozens, a forged one must not fill the memory."""

MAX_FORMS = 256
"""Layouts whose bodies have forms that are kept at once: a form is as large as a body, and there is more than one of each."""

MAX_FORMS_ALIKE = 2
"""Forms that are tried for one layout, as of two references: to try one in vain takes three quarters of reading the body."""

LEARNED_OF = 500
"""Of so many bodies of no form one gives a form, which takes as long as reading a hundred: where all differ it is in vain."""

_BODY_AT = 6
"""Where a row's body begins: behind the number of fields, two bytes, and its own length, four."""

_size_of = struct.Struct(">2xI").unpack_from

_COLUMNS = struct.Struct(">IqI64sI64sIqI36sI36s")
"""seq, previous, digest, at, invocation and lease, each with its length before it."""

_LENGTHS = (8, 64, 64, 8, 36, 36)

_read_columns = _COLUMNS.unpack_from

_PLACE = struct.Struct(">IqI64sI64s")
"""The first three of them."""

_TIME = struct.Struct(">Iq")

MAX_AT = 2**63
"""No row's time: that of a second which nobody has worked out yet."""

Place = tuple[int, bytes, bytes]
"""A record's seq, previous and digest."""

_EMPTY_HASH = sha256()
"""To copy it is faster than to make one."""

_NULL = b"\xff\xff\xff\xff"


class Layouts:
    """What the rows of one verification have in common, taken apart once."""

    def __init__(self) -> None:
        self.rests: dict[bytes, Known] = {}
        self.forms: dict[bytes, tuple[Form, ...]] = {}
        self.seconds: dict[bytes, int] = {}
        self._chain = ""
        self._unlike = 0

    def of(self, chain: str) -> Layouts:
        """Return itself, for bodies of that chain."""
        if chain != self._chain:
            self.rests.clear()
            self.forms.clear()
            self._chain = chain
        return self

    def rest(self, raw: bytes) -> Known:
        """Return what a body has to say for a row's last seven fields, without its time, invocation and lease.

        Raises:
            ValueError: they are not laid out as a row's last fields are.
        """
        kind, actor, model, version, server, outcome, action = _fields(raw, 7)
        found = Known(
            chain=self._chain,
            kind=_text(kind),
            actor=None if actor is None else User(user=_text(actor)),
            model=_text(model),
            version=_number(version),
            server=_text(server),
            outcome=_text(outcome),
            action=_text(action),
        )
        if len(self.rests) >= MAX_KEPT:
            self.rests.clear()
        self.rests[raw] = found
        return found

    def count(self, second: bytes, micros: bytes) -> int:
        """Return the microseconds from EPOCH to a time written like `2026-11-21T01:10:34.` and `123456`.

        Raises:
            ValueError: it is no such time, or not written like this.
        """
        if not (micros.isdigit() and len(micros) == 6):
            raise ValueError(f"{micros!r} are no microseconds as bodies write them")
        return (self.seconds.get(second) or self._second(second)) + int(micros)

    def learn(self, raw: bytes, text: bytes) -> None:
        """Take note of a body that holds with these last seven fields, and is of no form that they had yet."""
        self._unlike += 1
        if self._unlike < LEARNED_OF:
            return
        self._unlike = 0
        form = Form.of(text)
        if form is None:
            return
        if len(self.forms) >= MAX_FORMS:
            self.forms.clear()
        self.forms[raw] = (form, *self.forms.get(raw, ())[: MAX_FORMS_ALIKE - 1])

    def _second(self, raw: bytes) -> int:
        text = raw.decode("ascii")
        at = dt.datetime.fromisoformat(text.removesuffix("."))
        if at.tzinfo is not None or f"{at.isoformat()}." != text:
            raise ValueError(f"{text!r} is not written as bodies write a time")
        found = (at.replace(tzinfo=dt.UTC) - EPOCH) // MICROSECOND
        if len(self.seconds) >= MAX_KEPT:
            self.seconds.clear()
        self.seconds[raw] = found
        return found


class CopiedRecords(Sequence[AccessRecord]):
    """Some rows of COPY, in order of seq; a record is made of one when it is asked for (core.chain.Batch is this)."""

    def __init__(self, rows: Sequence[bytes], layouts: Layouts) -> None:
        self._rows = rows
        self._layouts = layouts
        self._places: list[Place | None] | None = None
        self._chain = ""

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> AccessRecord:  # type: ignore[override]  # a part of them is nobody's use
        return record(self._rows[index])

    def __iter__(self) -> Iterator[AccessRecord]:
        return map(record, self._rows)

    def holding(self, *, chain: str, after: Head, start: int, most: int) -> tuple[int, Head]:
        """Return how many from `start` on hold behind `after`, and the last one's place; what it is in doubt of ends it."""
        if self._places is None or chain != self._chain:
            self._places, self._chain = places(self._rows, self._layouts.of(chain)), chain
        seq, last, held = after.seq, after.digest.encode(), 0
        for place in self._places[start : start + most]:
            if place is None or place[0] != seq + 1 or place[1] != last:
                break
            seq, last, held = place[0], place[2], held + 1
        return held, Head(seq=seq, digest=last.decode())


def places(rows: Sequence[bytes], layouts: Layouts) -> list[Place | None]:
    """Return where each row stands by what it says, and None for one that is in doubt; whether they follow is not asked.

    Each step is taken for all of them: with all steps for one after the other, a processor forgets each until the next.
    """
    try:
        ends = [size + _BODY_AT for (size,) in map(_size_of, rows)]
        texts = [row[_BODY_AT:end] for row, end in zip(rows, ends, strict=True)]
        columns = [_read_columns(row, end) for row, end in zip(rows, ends, strict=True)]
    except struct.error:  # one is too short: it has no invocation, or somebody's hand was in it
        return [places([row], layouts)[0] for row in rows] if len(rows) > 1 else [_place(rows[0], layouts)]
    copied, hashed = _EMPTY_HASH.copy, HASHED
    digests: list[bytes] = []
    for text, fields in zip(texts, columns, strict=True):
        hashing = copied()
        hashing.update(hashed % (fields[3], text, fields[1]))
        digests.append(hashing.hexdigest().encode())
    forms, seconds = layouts.forms, layouts.seconds
    found: list[Place | None] = []
    for row, end, text, fields, digest in zip(rows, ends, texts, columns, digests, strict=True):
        for form in forms.get(row[end + _COLUMNS.size :], ()):
            if values := form.values(text):
                break
        else:
            found.append(_place(row, layouts, digest))
            continue
        second, micros, invocation, lease = values
        if (
            fields[::2] == _LENGTHS
            and fields[5] == digest
            and micros.isdigit()
            and seconds.get(second, MAX_AT) + int(micros) == fields[7]
            and fields[9] == invocation
            and fields[11] == lease
        ):
            found.append((fields[1], fields[3], digest))
        else:
            found.append(_place(row, layouts, digest))
    return found


def record(row: bytes) -> AccessRecord:
    """Make a record of a row.

    Raises:
        ValueError: it is not laid out as COPY's rows are.
    """
    if int.from_bytes(row[:2], "big") != FIELDS:
        raise ValueError("a row has other fields than were asked for")
    body, seq, previous, digest, at, *columns = _fields(row[2:], FIELDS)
    invocation, lease, kind, actor, model, version, server, outcome, action = columns
    return AccessRecord(
        seq=_number(seq) or 0,
        # none of these can be absent, unless somebody took the table's own rules away: then it does not hold
        previous=Digest(_text(previous) or ""),
        digest=Digest(_text(digest) or ""),
        body=_text(body) or "",
        columns={
            "kind": _text(kind),
            "at": _time(_number(at)),
            "invocation": _text(invocation),
            "lease": _text(lease),
            "actor": _text(actor),
            "model": _text(model),
            "version": _number(version),
            "server": _text(server),
            "outcome": _text(outcome),
            "action": _text(action),
        },
    )


def _place(row: bytes, layouts: Layouts, digest: bytes | None = None) -> Place | None:
    """Return where a row stands by what it says, from reading its body; None where it is in doubt.

    `digest` is what its text, its seq and its previous give, where that has been worked out.
    """
    try:
        end = _size_of(row)[0] + _BODY_AT
        text = row[_BODY_AT:end]
        _, seq, _, previous, _, _ = _PLACE.unpack_from(row, end)
        digest = digest or sha256(HASHED % (previous, text, seq)).hexdigest().encode()
        body = decode(text)
        at, invocation, lease = body.at or "", body.invocation, body.lease
        if at[26:] != "Z":
            return None
        count = layouts.count(at[:20].encode("ascii"), at[20:26].encode("ascii"))
        laid_out = _PLACE.pack(8, seq, 64, previous, 64, digest) + _TIME.pack(8, count)
        laid_out += _uuid(invocation) + _uuid(lease)
        cut = end + len(laid_out)
        if row[end:cut] != laid_out:
            return None
        raw = row[cut:]
        known = layouts.rests.get(raw) or layouts.rest(raw)
        # these were compared: what is left to compare is the rest
        known.at, known.invocation, known.lease = at, invocation, lease
        if known != body:
            return None
        layouts.learn(raw, text)
    except (ValueError, RecursionError, struct.error):
        return None  # a body or a row of an unusual form is no fault yet
    return seq, previous, digest


def _uuid(text: str | None) -> bytes:
    """Return a UUID's text as a row has it. Raises: ValueError (it is none: a length that is told must be the length)."""
    if text is None:
        return _NULL
    raw = text.encode("ascii")
    if len(raw) != 36:
        raise ValueError(f"{text!r} is no UUID")
    return b"\0\0\0\x24" + raw


def _fields(raw: bytes, number: int) -> list[bytes | None]:
    """Return the fields of a row, None for what is absent. Raises: ValueError (there are more, fewer or cut ones)."""
    fields: list[bytes | None] = []
    at = 0
    for _ in range(number):
        length = int.from_bytes(raw[at : at + 4], "big", signed=True)
        at += 4
        fields.append(None if length < 0 else raw[at : at + length])
        at += max(0, length)
    if at != len(raw):
        raise ValueError("a row is not laid out as COPY's rows are")
    return fields


def _text(field: bytes | None) -> str | None:
    return None if field is None else field.decode()


def _number(field: bytes | None) -> int | None:
    return None if field is None else int.from_bytes(field, "big", signed=True)


def _time(count: int | None) -> str | None:
    """Return microseconds since EPOCH as bodies write a time."""
    if count is None:
        return None
    try:
        return (EPOCH + count * MICROSECOND).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except OverflowError:
        return f"{count} microseconds from {EPOCH:%Y-%m-%d}"  # infinity, or a year that bodies cannot write
