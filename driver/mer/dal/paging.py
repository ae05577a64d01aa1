"""Pages by key, the same for every store: one row more than asked for tells whether there is a next page."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from mer.core.errors import UsageError
from mer.core.records import MAX_PAGE, AliasMove, Page

T = TypeVar("T")


def bounded(limit: int) -> int:
    """Return how many records a page of `limit` holds: at least one, at most MAX_PAGE."""
    return max(1, min(limit, MAX_PAGE))


def page_of(rows: Sequence[T], *, limit: int, key: Callable[[T], str]) -> Page[T]:
    """Make a page of `limit` records from rows that a store read, in order, with one more than `bounded(limit)`."""
    items = tuple(rows[: bounded(limit)])
    return Page(items=items, next=key(items[-1]) if len(rows) > len(items) else None)


def number_after(after: str | None) -> int | None:
    """Read a key that is a number.

    Raises:
        UsageError: it is none.
    """
    if after is None:
        return None
    if not (after.isascii() and after.isdigit() and len(after) < 19):  # 18 digits fit a 64-bit integer
        raise UsageError(f"{after[:40]!r} is no place in this list")
    return int(after)


def move_key(move: AliasMove) -> str:
    """Return the key of a move in the history of a model's aliases."""
    return f"{move.at.isoformat()} {move.alias} {move.move}"


def move_after(after: str | None) -> tuple[dt.datetime, str, int] | None:
    """Read a key that `move_key` made.

    Raises:
        UsageError: it is none.
    """
    if after is None:
        return None
    try:
        at, alias, move = after.split(" ")
        return dt.datetime.fromisoformat(at), alias, int(move)
    except ValueError as error:
        raise UsageError(f"{after[:40]!r} is no place in this list") from error


class Paged(Protocol[T]):
    """A list that is read page by page: a repository's method with all but `after` bound to it."""

    def __call__(self, *, after: str | None) -> Awaitable[Page[T]]: ...


async def every(page: Paged[T]) -> AsyncIterator[T]:
    """Give all items of a list, page after page."""
    after = None
    while True:
        found = await page(after=after)
        for item in found.items:
            yield item
        if (after := found.next) is None:
            return
