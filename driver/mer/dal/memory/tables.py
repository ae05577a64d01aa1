"""Tables in memory, and what a transaction lays over them until it commits.

Optimistic: a transaction notes the revision of every row that it looks at by key, and its commit is refused where one
of them has changed since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Generic, Protocol, TypeVar

from mer.core.errors import ConcurrentChange
from mer.core.records import (
    AccessRecord,
    AliasMove,
    InvocationId,
    Lease,
    LeaseId,
    Model,
    ModelId,
    OpenInvocation,
    Placement,
    Retirement,
    Server,
    ServerId,
    Version,
    Weights,
    WeightsId,
    WeightsVersion,
)

K = TypeVar("K")
Key = TypeVar("Key", contravariant=True)
V = TypeVar("V")


class Rows(Protocol[Key, V]):
    """Rows by key, as a repository sees them."""

    def get(self, key: Key) -> V | None: ...
    def put(self, key: Key, row: V) -> None: ...
    def remove(self, key: Key) -> None: ...
    def values(self) -> Iterator[V]: ...
    def __len__(self) -> int: ...


class Table(Generic[K, V]):
    """The committed rows, each with a revision that rises with every change."""

    def __init__(self) -> None:
        self._rows: dict[K, V] = {}
        self._revisions: dict[K, int] = {}

    def get(self, key: K) -> V | None:
        return self._rows.get(key)

    def put(self, key: K, row: V) -> None:
        self._rows[key] = row
        self._revisions[key] = self.revision(key) + 1

    def remove(self, key: K) -> None:
        del self._rows[key]
        self._revisions[key] = self.revision(key) + 1

    def values(self) -> Iterator[V]:
        return iter(tuple(self._rows.values()))

    def __len__(self) -> int:
        return len(self._rows)

    def items(self) -> Iterator[tuple[K, V]]:
        """Return the rows with their keys."""
        return iter(tuple(self._rows.items()))

    def revision(self, key: K) -> int:
        """Return how often that row was put or removed; a key that was never used has 0."""
        return self._revisions.get(key, 0)


class Overlay(Generic[K, V]):
    """A table as one transaction sees it: the committed rows under its own changes."""

    def __init__(self, table: Table[K, V]) -> None:
        self._table = table
        self._changes: dict[K, V | None] = {}
        self._seen: dict[K, int] = {}

    def get(self, key: K) -> V | None:
        if key in self._changes:
            return self._changes[key]
        self._look(key)
        return self._table.get(key)

    def put(self, key: K, row: V) -> None:
        self._look(key)
        self._changes[key] = row

    def remove(self, key: K) -> None:
        self._look(key)
        self._changes[key] = None

    def values(self) -> Iterator[V]:
        for key, row in self._table.items():
            if key not in self._changes:
                yield row
        for changed in tuple(self._changes.values()):
            if changed is not None:
                yield changed

    def __len__(self) -> int:
        return sum(1 for _ in self.values())

    def stale(self) -> bool:
        """Tell whether somebody else has changed a row that this transaction looked at."""
        return any(self._table.revision(key) != revision for key, revision in self._seen.items())

    def apply(self) -> None:
        """Write the changes to the table."""
        for key, row in self._changes.items():
            if row is not None:
                self._table.put(key, row)
            elif self._table.get(key) is not None:
                self._table.remove(key)

    def _look(self, key: K) -> None:
        self._seen.setdefault(key, self._table.revision(key))


THE_CHAIN = "chain"
"""The key of the one row that names the access log's chain."""


@dataclass(kw_only=True, slots=True)
class Tables:
    """Every table; names stand apart from their records, so that two of one name meet at one key."""

    servers: Rows[str, Server] = field(default_factory=Table)
    server_names: Rows[str, str] = field(default_factory=Table)
    models: Rows[str, Model] = field(default_factory=Table)
    model_names: Rows[str, str] = field(default_factory=Table)
    versions: Rows[tuple[ModelId, int], Version] = field(default_factory=Table)
    retirements: Rows[tuple[ModelId, int], Retirement] = field(default_factory=Table)
    moves: Rows[tuple[ModelId, str, int], AliasMove] = field(default_factory=Table)
    weights: Rows[str, Weights] = field(default_factory=Table)
    weights_names: Rows[str, str] = field(default_factory=Table)
    weights_versions: Rows[tuple[WeightsId, int], WeightsVersion] = field(default_factory=Table)
    placements: Rows[tuple[ModelId, ServerId], Placement] = field(default_factory=Table)
    chain: Rows[str, str] = field(default_factory=Table)
    records: Rows[int, AccessRecord] = field(default_factory=Table)
    kinds: Rows[tuple[InvocationId, str], int] = field(default_factory=Table)
    """The seq of an invocation's record of that kind: there is at most one."""
    unfinished: Rows[InvocationId, OpenInvocation] = field(default_factory=Table)
    leases: Rows[LeaseId, Lease] = field(default_factory=Table)

    def overlaid(self) -> Tables:
        """Return these tables as a new transaction sees them."""
        return Tables(**{each.name: Overlay(getattr(self, each.name)) for each in fields(self)})

    def commit(self) -> None:
        """Write a transaction's changes to the tables beneath.

        Raises:
            ConcurrentChange: somebody else has changed what it looked at.
        """
        overlays: list[Overlay[Any, Any]] = [getattr(self, each.name) for each in fields(self)]
        if any(overlay.stale() for overlay in overlays):
            raise ConcurrentChange()
        for overlay in overlays:
            overlay.apply()


class LogLock:
    """The lock on the access log: held for one append, or (`keep`) from a transaction's first append to its end."""

    def __init__(self, lock: asyncio.Lock, *, keep: bool = False) -> None:
        self._lock = lock
        self._keep = keep
        self._held = False

    async def acquire(self) -> None:
        """Wait for the log, unless this transaction has it already."""
        if not self._held:
            await self._lock.acquire()
            self._held = True

    def release(self) -> None:
        """Let the next writer go on, unless the transaction keeps the lock."""
        if not self._keep:
            self.end()

    def end(self) -> None:
        """Let the next writer go on; ending what is not held is no fault."""
        if self._held:
            self._held = False
            self._lock.release()
