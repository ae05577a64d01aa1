"""TOML text, written by hand: the same values give the same bytes for ever, since a package's id depends on them.

A library may lay out an array differently in its next release, and every package packed after that would get another id.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from mer.core.errors import PackageInvalid

Value: TypeAlias = "bool | int | float | str | Sequence[Value] | Mapping[str, Value]"

INT64 = range(-(2**63), 2**63)
"""The integers of TOML."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SHORT = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def pairs(values: Mapping[str, Value | None]) -> str:
    """Return a line `key = value` for each value that is not None, in the mapping's order.

    Raises:
        PackageInvalid: a value that TOML has no text for.
    """
    return "".join(f"{key_text(key)} = {value_text(value)}\n" for key, value in values.items() if value is not None)


def table(name: str, values: Mapping[str, Value | None]) -> str:
    """Return the lines of the table `[name]`, or nothing where it would be empty. `name` is dotted, its keys bare."""
    lines = pairs(values)
    return f"[{name}]\n{lines}" if lines else ""


def tables(name: str, rows: Iterable[Mapping[str, Value | None]]) -> list[str]:
    """Return the lines of each table of the array `[[name]]`."""
    return [f"[[{name}]]\n{pairs(row)}" for row in rows]


def key_text(key: str) -> str:
    """Return `key` bare where TOML allows it, else quoted."""
    return key if _BARE.fullmatch(key) else value_text(key)


def value_text(value: Value) -> str:
    """Return one value on one line.

    Raises:
        PackageInvalid: an integer beyond 64 bits, a number that is not finite, or a lone surrogate.
    """
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            if value not in INT64:
                raise PackageInvalid(f"{value} is beyond 64 bits")
            return str(value)
        case float():
            if not math.isfinite(value):
                raise PackageInvalid(f"{value} is no number that a record can hold")
            return repr(value)  # the shortest digits that read back as the same float; TOML takes this form
        case str():
            return f'"{"".join(map(_escaped, value))}"'
        case Mapping():
            inside = ", ".join(f"{key_text(key)} = {value_text(item)}" for key, item in value.items())
            return f"{{ {inside} }}" if inside else "{}"
        case _:
            return f"[{', '.join(map(value_text, value))}]"


def _escaped(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if character < " " or character == "\x7f":
        return f"\\u{ord(character):04X}"
    if "\ud800" <= character <= "\udfff":
        raise PackageInvalid("a lone surrogate has no text in UTF-8")
    return character
