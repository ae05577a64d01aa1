"""The mark of a database that a copy or a restore fills: no driver may write there before that has ended."""

from __future__ import annotations

import datetime as dt

import msgspec

from mer.core.errors import BeingFilled

MAX_SOURCE = 500
"""Characters of the source's name that a mark keeps: a path may be longer, and this is for people."""


class Filling(msgspec.Struct, frozen=True, kw_only=True):
    """What fills a database. The mark stays where a copy was cut, until that is resumed or given up."""

    source: str
    since: dt.datetime
    """By the database's own clock: when it was begun, however often it was resumed."""


def being_filled(shown: str, filling: Filling) -> BeingFilled:
    """Return the error for whoever would work with a database as if it were whole."""
    return BeingFilled(
        f"{shown} is being filled from {filling.source} since {filling.since:%Y-%m-%d %H:%M} UTC, and not whole yet",
        hint=RESUMES,
    )


RESUMES = "`mer db copy` or `mer db restore` from there goes on with it; `mer db copy --abandon` gives it up."
