"""Leases in PostgreSQL, by its own clock."""

from __future__ import annotations

import datetime as dt

import msgspec

from mer.core.errors import AlreadyExists
from mer.core.records import Lease, LeaseId
from mer.dal.postgres.queries import queries
from mer.dal.postgres.session import Session


class PostgresLeases:
    """Living drivers."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._queries = queries("leases")

    async def acquire(self, lease: Lease) -> None:
        meanings = {"lease_pkey": AlreadyExists(f"the lease {lease.id} is there already")}
        await self._session.ask(self._queries["acquire"], msgspec.structs.asdict(lease), meanings=meanings)

    async def renew(self, lease: LeaseId) -> bool:
        return bool(await self._session.ask(self._queries["renew"], {"id": lease}, repeatable=True))

    async def release(self, lease: LeaseId) -> None:
        await self._session.ask(self._queries["release"], {"id": lease}, repeatable=True)

    async def all(self) -> tuple[Lease, ...]:
        rows = await self._session.ask(self._queries["all"], repeatable=True)
        return tuple(msgspec.convert(row, Lease) for row in rows)

    async def now(self) -> dt.datetime:
        rows = await self._session.ask(self._queries["now"], repeatable=True)
        now: dt.datetime = rows[0]["now"]
        return now
