"""Times as they are typed: a date, a time, or how long ago."""

from __future__ import annotations

import datetime as dt
import re

from mer.core.errors import UsageError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
"""Seconds."""


def parse_time(text: str, *, option: str, now: dt.datetime | None = None) -> dt.datetime:
    """Read ISO 8601 (of the local zone where it has none), or how long ago, as in `90m`; return it in UTC.

    Raises:
        UsageError: it is neither.
    """
    now = now or dt.datetime.now(dt.UTC)
    try:
        if ago := re.fullmatch(r"([0-9]{1,9})([smhdw])", text.strip(), re.ASCII):
            return now - dt.timedelta(seconds=int(ago[1]) * UNITS[ago[2]])
        return dt.datetime.fromisoformat(text.strip()).astimezone(dt.UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{option} {text[:40]!r}: a time such as 2026-11-21, 2026-11-21T10:30Z, 90m, 6h or 7d is meant"
        ) from error
