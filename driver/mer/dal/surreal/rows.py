"""Records as rows and back.

JSON's null is NULL here and an absent field is NONE: a None within a flexible object would otherwise vanish with its key.
Integers, floats (-0.0 and 1.0 among them), booleans, texts and nulls then come back as they went, so specs and
parameters need not be kept as text. Integers beyond 64 bits are refused by the client library (InputInvalid).
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

S = TypeVar("S", bound=msgspec.Struct)


def to_row(record: msgspec.Struct, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the row of a record; `without` names fields that stand elsewhere."""
    from surrealdb import Null

    def stored(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: Null if item is None else stored(item) for key, item in value.items()}
        if isinstance(value, list):
            return [Null if item is None else stored(item) for item in value]
        return value

    built = msgspec.to_builtins(record, builtin_types=(dt.datetime,))
    return {name: stored(value) for name, value in built.items() if name not in without}


def from_row(kind: type[S], row: Mapping[str, Any]) -> S:
    """Return the record of a row; what is absent is None."""
    fields = kind.__struct_fields__
    return msgspec.convert({name: _loaded(row.get(name)) for name in fields}, kind)


def _loaded(value: Any) -> Any:
    # who has one of the library's has imported it: from a server. The engine inside this process needs no library to be read
    library = sys.modules.get("surrealdb")
    if library is not None and value is library.Null:
        return None
    if isinstance(value, dict):
        return {key: _loaded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_loaded(item) for item in value]
    if isinstance(value, dt.datetime):
        # the library's own class keeps nanoseconds; records have microseconds
        return dt.datetime.combine(value.date(), value.time(), dt.UTC)
    return value
