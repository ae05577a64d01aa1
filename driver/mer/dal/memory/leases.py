"""Leases in memory."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import msgspec

from mer.core.errors import AlreadyExists
from mer.core.records import Lease, LeaseId
from mer.dal.memory.tables import Tables


class MemoryLeases:
    """Living drivers; `clock` stands for the database's clock."""

    def __init__(self, tables: Tables, *, clock: Callable[[], dt.datetime]) -> None:
        self._tables = tables
        self._clock = clock

    async def acquire(self, lease: Lease) -> None:
        if self._tables.leases.get(lease.id) is not None:
            raise AlreadyExists(f"the lease {lease.id} is there already")
        now = self._clock()
        self._tables.leases.put(lease.id, msgspec.structs.replace(lease, acquired_at=now, last_seen=now))

    async def renew(self, lease: LeaseId) -> bool:
        held = self._tables.leases.get(lease)
        if held is None:
            return False
        self._tables.leases.put(lease, msgspec.structs.replace(held, last_seen=self._clock()))
        return True

    async def release(self, lease: LeaseId) -> None:
        if self._tables.leases.get(lease) is not None:
            self._tables.leases.remove(lease)

    async def all(self) -> tuple[Lease, ...]:
        return tuple(sorted(self._tables.leases.values(), key=lambda lease: (lease.acquired_at, lease.id)))

    async def now(self) -> dt.datetime:
        return self._clock()
