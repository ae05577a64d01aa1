"""CBOR of plain values, which is nearly all that queries and their answers have: texts, whole numbers, lists, maps, NONE.

The client library's codec knows every type of the database, takes two to three times as long, and a quarter of a second
to import. What is not plain goes there, whole. RFC 8949; NONE is tag 6 of null, a time is tag 12 of seconds and nanoseconds.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, cast

_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
"""What the database holds as a whole number; the library refuses others by name."""

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_FALSE, _TRUE, _NULL = _SIMPLE << 5 | 20, _SIMPLE << 5 | 21, _SIMPLE << 5 | 22
_NONE_TAG, _TIME_TAG = _TAG << 5 | 6, _TAG << 5 | 12
SECOND = 1_000_000_000
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_AT_HAND = 24
"""Arguments below this stand in the first byte; from there on 1, 2, 4 or 8 bytes follow."""


class _Foreign(Exception):
    """A value that is not plain."""


def encode(value: object) -> bytes:
    """Encode a value.

    Raises:
        ValueError, TypeError: it has no form in the database.
    """
    parts: list[bytes] = []
    try:
        _encode(value, parts)
    except _Foreign:
        from surrealdb.data import cbor

        encoded: bytes = cbor.encode(value)
        return encoded
    return b"".join(parts)


def decode(encoded: bytes) -> Any:
    """Decode a value. NONE and NULL are None, times have microseconds."""
    try:
        value, end = _decode(encoded, 0)
    except (_Foreign, IndexError):
        value, end = None, -1
    if end == len(encoded):
        return value
    from surrealdb.data import cbor

    return cbor.decode(encoded)


def _encode(value: object, parts: list[bytes]) -> None:
    # exact types, and no `match`, which takes as long as all the rest
    kind = type(value)
    if kind is str:
        text = cast("str", value).encode()
        parts += (_start(_TEXT, len(text)), text)
    elif kind is bool:
        parts.append(bytes((_TRUE if value else _FALSE,)))
    elif kind is int:
        number = cast("int", value)
        if not _LOWEST <= number <= _HIGHEST:
            raise _Foreign
        parts.append(_start(_NEGATIVE, -1 - number) if number < 0 else _start(_UNSIGNED, number))
    elif value is None:
        parts.append(bytes((_NONE_TAG, _NULL)))
    elif kind is dict:
        pairs = cast("dict[object, object]", value)
        parts.append(_start(_MAP, len(pairs)))
        for key, item in pairs.items():
            _encode(key, parts)
            _encode(item, parts)
    elif kind is list:
        items = cast("list[object]", value)
        parts.append(_start(_ARRAY, len(items)))
        for item in items:
            _encode(item, parts)
    else:
        raise _Foreign


def _start(major: int, argument: int) -> bytes:
    if argument < _AT_HAND:
        return bytes((major << 5 | argument,))
    for power in range(4):
        if argument < 1 << (8 << power):
            return bytes((major << 5 | _AT_HAND + power,)) + argument.to_bytes(1 << power, "big")
    raise ValueError("nothing in memory is that long")


def _decode(encoded: bytes, at: int) -> tuple[Any, int]:
    first = encoded[at]
    major, argument = first >> 5, first & 0x1F
    at += 1
    if argument >= _AT_HAND:
        if major == _SIMPLE or argument > _AT_HAND + 3:
            raise _Foreign  # a float, or of a length that is not told
        length = 1 << argument - _AT_HAND
        argument = int.from_bytes(encoded[at : at + length], "big")
        at += length
    if major == _TEXT:
        end = at + argument
        return str(encoded[at:end], "utf-8"), end
    if major == _MAP:
        pairs = {}
        for _ in range(argument):
            key, at = _decode(encoded, at)
            pairs[key], at = _decode(encoded, at)
        return pairs, at
    if major == _ARRAY:
        items = []
        for _ in range(argument):
            item, at = _decode(encoded, at)
            items.append(item)
        return items, at
    if major == _UNSIGNED:
        return argument, at
    if major == _NEGATIVE:
        return -1 - argument, at
    if first == _NULL:
        return None, at
    if first == _NONE_TAG and encoded[at] == _NULL:
        return None, at + 1
    if first == _TIME_TAG:
        value, at = _decode(encoded, at)
        return _time(value), at
    if first in (_FALSE, _TRUE):
        return first == _TRUE, at
    raise _Foreign


def _time(value: object) -> dt.datetime:
    match value:
        case [int(seconds), int(nanoseconds)] if 0 <= nanoseconds < SECOND:
            pass
        case [int(seconds)]:
            nanoseconds = 0
        case _:
            raise _Foreign
    try:
        return EPOCH + dt.timedelta(seconds=seconds, microseconds=nanoseconds // 1000)
    except OverflowError:
        raise _Foreign from None
