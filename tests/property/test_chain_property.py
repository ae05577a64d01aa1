"""A verifier's quick look at a record finds what the close look finds: whatever a body or its columns were made into."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mer.core.canonical import canonical
from mer.core.chain import COLUMNS, EMPTY, Link, Verifier, derived, digest

CHAIN = "0193b2f0-0000-7000-8000-000000000001"
BODY = canonical(
    {
        "chain": CHAIN, "kind": "started", "at": "2026-11-21T01:10:34.123456Z", "invocation": "0193b2f0-1111",
        "actor": {"user": "ada", "uid": 1000}, "model": "digits", "version": 2, "server": "local",
        "inputs": [{"name": "image", "shape": [8, 8]}], "more": {"text": "é\n", "nothing": None, "yes": True, "big": 2**53 - 1},
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    body: str
    columns: dict[str, Any] = field(default_factory=dict)
    seq: int = 1
    previous: str = EMPTY.digest

    @property
    def digest(self) -> str:
        return digest(self.previous, self.body, self.seq)


class Closely(Verifier):
    """Looks at every record closely."""

    def _holds(self, link: Link) -> bool:
        return False


def columns_of(body: str) -> dict[str, Any]:
    """Return what a store would hold, or a sound record's columns where it could hold nothing."""
    try:
        return derived(json.loads(body))
    except (ValueError, AttributeError):
        return derived(json.loads(BODY))


def same(row: Row) -> None:
    quick, close = Verifier(chain=CHAIN), Closely(chain=CHAIN)
    quick.feed([row])
    close.feed([row])
    assert (quick.finish(), quick.head, quick.records) == (close.finish(), close.head, close.records)


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
PIECES = st.text(max_size=3) | st.sampled_from(
    [
        "\x00",
        "\x1f",
        "\\",
        "\\u",
        "\\ud800",
        '"',
        ",",
        "01",
        "1e5",
        "-",
        "-0",
        "1.",
        "NaN",
        "Infinity",
        "[",
        "]",
        "{",
        "}",
        "\n",
    ]
)


@given(st.integers(0, len(BODY)), st.integers(0, 4), PIECES)
def test_a_body_with_a_piece_in_the_place_of_another(start: int, length: int, piece: str) -> None:
    body = BODY[:start] + piece + BODY[start + length :]
    try:
        body.encode()
    except UnicodeEncodeError:
        return  # no text of a database
    same(Row(body=body, columns=columns_of(body)))
    same(Row(body=body))


@given(st.sampled_from((*COLUMNS, "chain", "more")), VALUES, VALUES)
def test_a_field_or_a_column_of_any_value(name: str, in_body: Any, in_column: Any) -> None:
    body = json.dumps({**json.loads(BODY), name: in_body})
    same(Row(body=body, columns=columns_of(body)))
    same(Row(body=body, columns={**columns_of(body), name: in_column} if name in COLUMNS else columns_of(body)))


@given(st.sampled_from(COLUMNS), VALUES)
def test_an_actor_and_a_key_that_stands_twice(name: str, value: Any) -> None:
    twice = BODY[:-1] + "," + json.dumps({name: value})[1:]
    same(Row(body=twice, columns=columns_of(twice)))
    same(Row(body=json.dumps({**json.loads(BODY), "actor": {"user": value}}), columns=columns_of(BODY)))


@pytest.mark.parametrize(
    "text", ['"\x01"', r'"\x"', r'"\ud800"', "01", "1.", "-", "tru", "[1,]", "{1:2}", '{"a" 1}', "\ufeff1", "1e400"]
)
def test_what_is_no_json_in_a_field_that_nobody_looks_at(text: str) -> None:
    body = BODY[:-1] + ',"other":' + text + "}"
    same(Row(body=body, columns=columns_of(BODY)))


def test_a_sound_record_needs_no_close_look() -> None:
    row = Row(body=BODY, columns=columns_of(BODY))
    assert Verifier(chain=CHAIN)._holds(row)
