"""Where a registry and its log come from: another database, or a file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from mer.core.chain import EMPTY, Head, Link
from mer.dal.base import Store
from mer.moving.nouns import Noun, nouns_of


class Source(Protocol):
    """What is moved. It can be read as often as needed; a database may grow meanwhile."""

    @property
    def name(self) -> str:
        """Which one, for people, without secrets."""

    async def chain(self) -> str:
        """Return the name of its log's chain."""

    async def head(self) -> Head:
        """Return the place of its last record, as of now."""

    def records(self, *, after: int, until: int) -> AsyncIterator[Sequence[Link]]:
        """Give its records behind `after` up to `until`, oldest first, some at a time."""

    def nouns(self) -> AsyncIterator[Noun]:
        """Give its registry, as moving.nouns.nouns_of orders it."""


class StoreSource:
    """A database as a source."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def name(self) -> str:
        return self._store.name

    async def chain(self) -> str:
        return await self._store.access_log.chain()

    async def head(self) -> Head:
        return await self._store.access_log.head()

    def records(self, *, after: int, until: int) -> AsyncIterator[Sequence[Link]]:
        return self._store.access_log.scan(after=after, until=until)

    def nouns(self) -> AsyncIterator[Noun]:
        return nouns_of(self._store)


async def head_at(source: Source, seq: int) -> Head | None:
    """Return the place of the source's record of that seq; None where it has none."""
    if seq == EMPTY.seq:
        return EMPTY
    async for records in source.records(after=seq - 1, until=seq):
        return Head(seq=records[0].seq, digest=records[0].digest)
    return None
