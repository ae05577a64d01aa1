"""The store that ties the repositories in memory together."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from mer.dal.base import SCHEMA
from mer.dal.description import Description
from mer.dal.filling import MAX_SOURCE, Filling
from mer.dal.memory.access_log import MemoryAccessLog
from mer.dal.memory.leases import MemoryLeases
from mer.dal.memory.models import MemoryModels
from mer.dal.memory.placements import MemoryPlacements
from mer.dal.memory.servers import MemoryServers
from mer.dal.memory.tables import THE_CHAIN, LogLock, Tables
from mer.dal.memory.weights import MemoryWeights


def _system_clock() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class MemoryRepositories:
    """The nouns over one set of tables: the committed ones, or those of a transaction."""

    def __init__(self, tables: Tables, *, lock: Callable[[], LogLock], clock: Callable[[], dt.datetime]) -> None:
        self.servers = MemoryServers(tables)
        self.models = MemoryModels(tables)
        self.weights = MemoryWeights(tables)
        self.placements = MemoryPlacements(tables)
        self.access_log = MemoryAccessLog(tables, lock=lock)
        self.leases = MemoryLeases(tables, clock=clock)


class MemoryStore(MemoryRepositories):
    """A database that ends with its process. It is one process's and one event loop's own."""

    def __init__(self, *, clock: Callable[[], dt.datetime] = _system_clock) -> None:
        self._tables = Tables()
        self._log = asyncio.Lock()
        self._tables.chain.put(THE_CHAIN, str(uuid.uuid4()))
        self._clock = clock
        self._filling: Filling | None = None
        super().__init__(self._tables, lock=lambda: LogLock(self._log), clock=clock)

    @property
    def name(self) -> str:
        return "memory"

    @property
    def elsewhere(self) -> bytes | None:
        return None

    async def open(self) -> None:
        """Do nothing: there is nothing to connect to, and it is born migrated."""

    async def close(self) -> None:
        """Do nothing: what it holds ends with the object."""

    async def schema(self) -> int | None:
        return SCHEMA

    async def describe(self) -> Description:
        return Description(server="memory", client="memory")

    async def filling(self) -> Filling | None:
        return self._filling

    async def begin_filling(self, source: str) -> None:
        # nobody to be refused: there is no other store on what this one holds
        since = self._filling.since if self._filling else self._clock()
        self._filling = Filling(source=source[:MAX_SOURCE], since=since)

    async def end_filling(self) -> None:
        self._filling = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryRepositories]:
        tables = self._tables.overlaid()
        lock = LogLock(self._log, keep=True)
        try:
            yield MemoryRepositories(tables, lock=lambda: lock, clock=self._clock)
            tables.commit()
        finally:
            lock.end()
