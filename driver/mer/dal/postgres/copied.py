"""Records of the access log as a binary COPY sends them, and the quick look that a verification takes at them.

A log has millions of records, and nearly all of them hold. To make a record of every row, and a column of every field,
would take longer than to hash it; so what the body says is laid out as the row would have it, and the two are compared
as bytes. Only a row that differs is taken apart, for core.chain.Verifier to look at closely.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Iterator, Sequence
from hashlib import sha256

from mer.core.chain import HASHED, Head, Known, User, decode
from mer.core.records import AccessRecord, Digest

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

_BODY_AT = 6
"""Where a row's body begins: behind the number of fields, two bytes, and its own length, four."""

_lay_out = struct.Struct(">IqI64sI64sIqI36sI36s").pack
"""seq, previous, digest, at, invocation and lease, each with its length before it."""

_lay_out_some = struct.Struct(">IqI64sI64sIq").pack
"""The same without invocation and lease, of which one is absent."""

_NULL = b"\xff\xff\xff\xff"


class Layouts:
    """What the rows of one verification have in common, taken apart once."""

    def __init__(self) -> None:
        self.rests: dict[bytes, Known] = {}
        self.seconds: dict[str, int] = {}
        self._chain = ""

    def of(self, chain: str) -> Layouts:
        """Return itself, for bodies of that chain."""
        if chain != self._chain:
            self.rests.clear()
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

    def second(self, text: str) -> int:
        """Return the microseconds from EPOCH to a second written like `2026-11-21T01:10:34.`, with its point.

        Raises:
            ValueError: it is no such time, or not written like this.
        """
        at = dt.datetime.fromisoformat(text.removesuffix("."))
        if at.tzinfo is not None or f"{at.isoformat()}." != text:
            raise ValueError(f"{text!r} is not written as bodies write a time")
        found = (at.replace(tzinfo=dt.UTC) - EPOCH) // MICROSECOND
        if len(self.seconds) >= MAX_KEPT:
            self.seconds.clear()
        self.seconds[text] = found
        return found


class CopiedRecords(Sequence[AccessRecord]):
    """Some rows of COPY, in order of seq; a record is made of one when it is asked for (core.chain.Batch is this)."""

    def __init__(self, rows: Sequence[bytes], layouts: Layouts) -> None:
        self._rows = rows
        self._layouts = layouts

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> AccessRecord:  # type: ignore[override]  # a part of them is nobody's use
        return record(self._rows[index])

    def __iter__(self) -> Iterator[AccessRecord]:
        return map(record, self._rows)

    def holding(self, *, chain: str, after: Head, start: int, most: int) -> tuple[int, Head]:
        """Return how many from `start` on hold behind `after`, and the last one's place; what it is in doubt of ends it."""
        seq, previous, held = after.seq, after.digest.encode(), 0
        if len(previous) != 64:  # somebody's hand: the layout below would cut it or fill it up
            return 0, after
        layouts = self._layouts.of(chain)
        rests, seconds, lay_out, hashed, read = layouts.rests, layouts.seconds, _lay_out, HASHED, decode
        try:
            for row in self._rows[start : start + most]:
                end = int.from_bytes(row[2:_BODY_AT], "big") + _BODY_AT
                text = row[_BODY_AT:end]
                digest = sha256(hashed % (previous, text, seq + 1)).hexdigest().encode()
                body = read(text)
                at, invocation, lease = body.at or "", body.invocation, body.lease
                second, micros = at[:20], at[20:26]
                if at[26:] != "Z" or not (micros.isdecimal() and at.isascii()):
                    break
                count = (seconds.get(second) or layouts.second(second)) + int(micros)
                if invocation and lease and len(invocation) == len(lease) == 36:
                    one, two = invocation.encode("ascii"), lease.encode("ascii")
                    laid_out = lay_out(8, seq + 1, 64, previous, 64, digest, 8, count, 36, one, 36, two)
                else:
                    laid_out = _lay_out_some(8, seq + 1, 64, previous, 64, digest, 8, count)
                    laid_out += _uuid(invocation) + _uuid(lease)
                cut = end + len(laid_out)
                if row[end:cut] != laid_out:
                    break
                raw = row[cut:]
                known = rests.get(raw) or layouts.rest(raw)
                # these were compared: what is left to compare is the rest
                known.at, known.invocation, known.lease = at, invocation, lease
                if known != body:
                    break
                seq, previous, held = seq + 1, digest, held + 1
        except (ValueError, RecursionError, struct.error):
            pass  # a body or a row of an unusual form is no fault yet
        return held, Head(seq=seq, digest=previous.decode())


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
