"""Leases in SurrealDB."""

from __future__ import annotations

import datetime as dt

from mer.core.errors import AlreadyExists
from mer.core.records import Lease, LeaseId
from mer.dal.surreal.executor import Executor
from mer.dal.surreal.queries import load
from mer.dal.surreal.rows import from_row, to_row


class SurrealLeases:
    """Living drivers."""

    def __init__(self, run: Executor) -> None:
        self._run = run
        self._queries = load("leases")

    async def acquire(self, lease: Lease) -> None:
        otherwise = {"taken": AlreadyExists(f"the lease {lease.id} is there already")}
        row = to_row(lease, without=("id", "acquired_at", "last_seen"))
        await self._run.tell(self._queries["acquire"], otherwise, id=lease.id, row=row)

    async def renew(self, lease: LeaseId) -> bool:
        return bool(await self._run.ask(self._queries["renew"], id=lease))

    async def release(self, lease: LeaseId) -> None:
        await self._run.tell(self._queries["release"], {}, id=lease)

    async def all(self) -> tuple[Lease, ...]:
        return tuple(from_row(Lease, row) for row in await self._run.ask(self._queries["all"]))

    async def now(self) -> dt.datetime:
        now: dt.datetime = await self._run.ask(self._queries["now"])
        return dt.datetime.combine(now.date(), now.time(), dt.UTC)
