"""Bodies on their way into the access log: checked, with the columns that are derived from them, and chained."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import msgspec

from mer.core.chain import Head, derived, digest
from mer.core.errors import InputInvalid
from mer.core.records import RecordKind

_AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
"""The one form of a time in a body. Only because it is fixed do texts sort as times do."""

_KINDS = frozenset(map(str, RecordKind))

OPENED = ("invocation", "lease", "model", "server")
"""What is kept of a run for as long as it is open."""

Key: TypeAlias = "tuple[str, str]"
"""Invocation and kind: each pair stands once in the log."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A body that can be appended."""

    body: str
    columns: dict[str, str | int | None]
    key: Key | None
    """What it may stand for only once; None for a change, which may come as often as it likes."""


def entry(body: str) -> Entry:
    """Read a body.

    Raises:
        InputInvalid: it is no JSON object, or has no kind or time that the log knows, or text that has no UTF-8.
    """
    try:
        columns = derived(msgspec.json.decode(body.encode()))
        if columns["kind"] not in _KINDS:
            raise ValueError(f"{columns['kind']!r} is no kind of record")
        if not _AT.fullmatch(str(columns["at"])):
            raise ValueError(f"{columns['at']!r} is no time of a record")
        if columns["kind"] == RecordKind.STARTED and not all(isinstance(columns[name], str) for name in OPENED):
            raise ValueError(f"what started has {', '.join(OPENED)}")
    except (ValueError, AttributeError) as error:
        raise InputInvalid(f"the access log refuses a record: {error}") from error
    invocation = columns["invocation"]
    key = None if invocation is None else (str(invocation), str(columns["kind"]))
    return Entry(body=body, columns=columns, key=key)


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """Entries in their places after a head, as the append query takes them."""

    previous: str
    places: tuple[Head, ...]
    rows: str
    opening: str
    """Which invocations begin and which end."""


def places_after(entries: Iterable[Entry], head: Head) -> tuple[Head, ...]:
    """Return where entries stand that are chained to a head."""
    places: list[Head] = []
    for each in entries:
        seq = head.seq + 1
        head = Head(seq=seq, digest=digest(head.digest, each.body, seq))
        places.append(head)
    return tuple(places)


def link(entries: Sequence[Entry], head: Head) -> Link:
    """Chain entries, at least one, to a head."""
    rows: list[dict[str, str | int]] = []
    places = places_after(entries, head)
    last = head
    for each, place in zip(entries, places, strict=True):
        # columns that are absent stay away: JSON's null would be NULL, and theirs is NONE
        present = {name: value for name, value in each.columns.items() if value is not None}
        chained: dict[str, str | int] = {
            "id": place.seq,
            "newest": -place.seq,
            "previous": last.digest,
            "digest": place.digest,
            "body": each.body,
        }
        rows.append({**present, **chained})
        last = place
    return Link(previous=head.digest, places=places, rows=_json(rows), opening=_json(_begun_and_ended(entries, places)))


def _begun_and_ended(entries: Sequence[Entry], places: Sequence[Head]) -> dict[str, object]:
    """Return which invocations begin and which end; one that does both concerns nobody else."""
    started: dict[str, dict[str, str | int | None]] = {}
    finished: dict[str, None] = {}
    for each, place in zip(entries, places, strict=True):
        match each.columns["kind"]:
            case RecordKind.STARTED:
                names = {name: each.columns[name] for name in ("lease", "model", "server")}
                started[str(each.columns["invocation"])] = {"started_seq": place.seq, **names}
            case RecordKind.FINISHED:
                finished[str(each.columns["invocation"])] = None
    return {
        "begun": {invocation: each for invocation, each in started.items() if invocation not in finished},
        "ended": [invocation for invocation in finished if invocation not in started],
    }


def first_of_each(entries: Iterable[Entry]) -> list[Entry]:
    """Leave out what stands for the same invocation and kind as one before it."""
    kept: list[Entry] = []
    keys: set[Key] = set()
    for each in entries:
        if each.key is None or each.key not in keys:
            kept.append(each)
        if each.key is not None:
            keys.add(each.key)
    return kept


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
