"""What the columns of a block of records (blocks.py) have to be by what the bodies say: compared at once, not value by value.

The server joins the values of a column; here those of the bodies are joined in the same way, and the two are compared. The
separators are counted: a value that has one in it would otherwise stand for two.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Sequence
from operator import add

EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
"""What PostgreSQL counts a timestamptz's microseconds from."""

MICROSECOND = dt.timedelta(microseconds=1)

MAX_SECONDS = 4096
"""Seconds that are kept: the records of one stand together, and a long log has many."""

UUID_CHARACTERS = 36

TIME_CHARACTERS = 27
"""Of `2026-11-21T01:10:34.123456Z`, in which alone bodies write a time."""


class Seconds(dict[str, int]):
    """The microseconds from EPOCH to a second written like `2026-11-21T01:10:34`, worked out once.

    Raises:
        ValueError: it is no such time, or not written like this.
    """

    def __missing__(self, text: str) -> int:
        at = dt.datetime.fromisoformat(text)
        if at.tzinfo is not None or at.isoformat() != text:
            raise ValueError(f"{text!r} is not written as bodies write a time")
        if len(self) >= MAX_SECONDS:
            self.clear()
        self[text] = found = (at.replace(tzinfo=dt.UTC) - EPOCH) // MICROSECOND
        return found


def same_texts(column: bytes, values: Sequence[str | None], *, absent: str) -> bool:
    r"""Tell whether a column, its values joined by `\n` and `absent` for NULL, has these values.

    Raises:
        ValueError: there is a lone surrogate among them, which no column can have.
    """
    joined = _joined(values, absent)
    return joined.encode() == column and joined.count("\n") == len(values) - 1


def same_uuids(column: bytes, values: Sequence[str | None], *, absent: str) -> bool:
    """Tell whether a column of UUIDs, 16 bytes each and `absent` for NULL, has these values, written as bodies write one."""
    joined = _joined(values, absent)
    number, apart = len(values), UUID_CHARACTERS + 1
    dashes = "-" * number
    return (
        len(joined) == number * apart - 1
        and joined.count("\n") == number - 1
        and joined[UUID_CHARACTERS::apart] == "\n" * (number - 1)
        and joined[8::apart] == joined[13::apart] == joined[18::apart] == joined[23::apart] == dashes
        # any further dash would leave fewer digits than the column has
        and joined.replace("-", "").replace("\n", "") == column.hex()
    )


def same_times(column: bytes, values: Sequence[str | None], seconds: Seconds) -> bool:
    """Tell whether a column of timestamptz, 8 bytes each, has these times, written as bodies write one.

    Raises:
        ValueError: one is no time. TypeError: one is absent. struct.error: a column's is.
    """
    joined, number, apart = "\n".join(values), len(values), TIME_CHARACTERS + 1  # type: ignore[arg-type]
    if not (
        len(joined) == number * apart - 1
        and joined.count("\n") == number - 1
        and joined[TIME_CHARACTERS::apart] == "\n" * (number - 1)
        and joined.count(".") == number
        and joined[19::apart] == "." * number
        and joined[26::apart] == "Z" * number
    ):
        return False
    pieces = joined.replace("Z\n", ".")[:-1].split(".")
    micros = pieces[1::2]
    digits = "".join(micros)
    if not (len(pieces) == 2 * number and digits.isascii() and digits.isdigit()):
        return False
    told = struct.unpack(f">{number}q", column)
    return tuple(map(add, map(seconds.__getitem__, pieces[::2]), map(int, micros))) == told


def _joined(values: Sequence[str | None], absent: str) -> str:
    try:
        return "\n".join(values)  # type: ignore[arg-type]  # to look for None first would take longer
    except TypeError:
        return "\n".join([absent if value is None else value for value in values])
