"""Our CBOR of plain values is the client library's, and what is not plain goes there."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from surrealdb import Null
from surrealdb.cbor import CBORTag
from surrealdb.data import cbor as library

from mer.dal.surreal import cbor

whole = st.integers(-(2**63), 2**63 - 1)
plain = st.recursive(
    st.none() | st.booleans() | whole | st.text(),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.text(), inner, max_size=30),
    max_leaves=50,
)
edges = [n + d for n in (0, 24, 2**8, 2**16, 2**32, 2**63) for d in (-1, 0, 1) if n + d < 2**63]


@given(plain)
@example(edges)
@example([-each for each in edges])
@example(["x" * length for length in (23, 24, 255, 256, 65535, 65536)])
@example([0] * 300)
@example({str(number): None for number in range(300)})
def test_what_is_plain_is_written_and_read_as_the_library_does(value: Any) -> None:
    assert repr(library.decode(cbor.encode(value))) == repr(value)
    assert repr(cbor.decode(library.encode(value))) == repr(value)
    assert len(cbor.encode(value)) == len(library.encode(value))


class Named(StrEnum):
    ONE = "one"


MOMENT = dt.datetime(2026, 11, 21, 12, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize("value", [0.5, -0.0, b"bytes", MOMENT, Named.ONE, {"deep": [1, {"within": MOMENT}]}])
def test_what_is_not_plain_goes_to_the_library(value: Any) -> None:
    assert cbor.encode(value) == library.encode(value)
    encoded = library.encode([value])
    assert repr(cbor.decode(encoded)) == repr(library.decode(encoded))


def test_null_is_none_too() -> None:
    assert cbor.encode({"null": Null}) == library.encode({"null": Null})
    assert cbor.decode(library.encode({"null": Null, "none": None})) == {"null": None, "none": None}


@given(st.integers(-62135596800, 253402300799), st.integers(0, 999_999_999))
@example(0, 0)
@example(-1, 999_999_999)
@example(253402300799, 999_999_999)
def test_a_time_is_the_librarys_to_the_microsecond(seconds: int, nanoseconds: int) -> None:
    encoded = library.encode(CBORTag(12, [seconds, nanoseconds]))
    found, theirs = cbor.decode(encoded), library.decode(encoded)
    assert type(found) is dt.datetime
    assert found == dt.datetime.combine(theirs.date(), theirs.time(), dt.UTC)


def test_a_time_leaves_out_what_is_zero() -> None:
    assert cbor.decode(library.encode(CBORTag(12, [7]))) == dt.datetime(1970, 1, 1, 0, 0, 7, tzinfo=dt.UTC)
    assert cbor.decode(library.encode(CBORTag(12, []))) == dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize("tag", [6, 12, 24, 244, 245, 246, 65535])
def test_a_tag_that_is_not_ours_is_not_taken_for_a_value(tag: int) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - the library's own, of several kinds
        cbor.decode(library.encode([CBORTag(tag, "no value of ours")]))


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, "\ud800", object()])
def test_what_the_database_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        cbor.encode([1, value])


@given(plain, st.data())
def test_an_answer_that_was_cut_is_no_answer(value: Any, data: st.DataObject) -> None:
    encoded = cbor.encode([value, "the end"])
    with pytest.raises(Exception):  # noqa: B017, PT011 - the library's own, of several kinds
        cbor.decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])
