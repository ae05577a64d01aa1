"""A store's connections: one that is always there and appends, and a small pool for what has to go beside it.

A one-shot command gets by with the first. A connection that broke is replaced at the next call, which waits for a server
that was there and is gone: for as long as the settings say, asking less and less often (docs/decisions/07-reconnecting.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

from psycopg.rows import dict_row

from mer.core.errors import DatabaseUnreachable
from mer.dal.postgres.connecting import Connector, Start
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer.dal.postgres.copying import copied
from mer.dal.postgres.errors import ConnectionLost, Meanings
from mer.dal.postgres.pool import Pool
from mer.dal.postgres.session import Connection, RowFactory, hung_up, run

T = TypeVar("T")


class Connections:
    """The connections of one store; `start` starts an embedded server that does not run (it blocks)."""

    def __init__(self, settings: ConnectionSettings, *, start: Start | None = None) -> None:
        self.settings = settings
        self._connector = Connector(settings, start=start)
        self._first: Connection | None = None
        self._turn = asyncio.Lock()
        self._pool: Pool | None = None
        self._was_there = False
        self._closed = False

    @property
    def in_transaction(self) -> bool:
        return False

    async def ask(
        self,
        query: str,
        parameters: Mapping[str, object] | None = None,
        *,
        meanings: Meanings | None = None,
        repeatable: bool = False,
        prepare: bool | None = None,
        rows: RowFactory = dict_row,
    ) -> list[Any]:
        """Run a statement of its own on whatever connection is free."""

        async def once() -> list[Any]:
            async with self._any() as connection:
                return await self._run(connection, query, parameters, meanings=meanings, prepare=prepare, rows=rows)

        return await self._again(once, repeatable=lambda: repeatable)

    async def in_turn(self, work: Callable[[Connection], Awaitable[T]], *, repeatable: Callable[[], bool]) -> T:
        """Do some work on the first connection, after those that wait for it: appends keep their order.

        Whether it is `repeatable` is asked only where an answer was lost: to know it takes a look into every body.
        """

        async def once() -> T:
            async with self._turn:
                connection = await self._connected()
                try:
                    return await work(connection)
                except DatabaseUnreachable:
                    await self._broke()
                    raise

        return await self._again(once, repeatable=repeatable)

    async def copy(self, query: str) -> AsyncGenerator[memoryview, None]:
        seconds, shown = self.settings.statement_seconds, self.settings.shown
        async with (
            self.pooled() as connection,
            aclosing(copied(connection, query, seconds=seconds, shown=shown)) as rows,
        ):
            async for row in rows:
                yield row

    @asynccontextmanager
    async def pooled(self) -> AsyncIterator[Connection]:
        """Give a connection beside the first, for a transaction or a scan."""
        if self._pool is None:
            self._pool = Pool(
                self._connect,
                most=self.settings.most_pooled,
                wait_seconds=self.settings.statement_seconds,
                shown=self.settings.shown,
            )
        try:
            async with self._pool.lend() as connection:
                yield connection
        except DatabaseUnreachable:
            await self._broke()
            raise

    async def open(self) -> None:
        """Connect. Raises: DatabaseUnreachable, AuthenticationFailed, ConfigurationError, Busy."""
        self._closed = False
        async with self._turn:
            await self._connected()

    async def close(self) -> None:
        """Close every connection; closing twice is no fault. What is asked after that, or is under way, is refused."""
        self._closed = True
        pool, self._pool = self._pool, None
        first, self._first = self._first, None
        if pool:
            await pool.close()
        if first:
            await first.close()

    async def _again(self, once: Callable[[], Awaitable[T]], *, repeatable: Callable[[], bool]) -> T:
        """Ask once; where the answer is lost and that does no harm, again for as long as a server may be away."""
        try:
            return await once()
        except ConnectionLost:
            if not repeatable():
                raise
        clock = asyncio.get_running_loop().time
        until = clock() + self.settings.reconnect_seconds
        for pause in self._connector.pauses():
            try:
                return await once()
            except ConnectionLost:  # a server that is restarted may cut its clients more than once
                if clock() + pause > until:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("pauses have no end")

    @asynccontextmanager
    async def _any(self) -> AsyncIterator[Connection]:
        # those who have the pool's last places may be waiting for this very answer, each within a transaction
        if self._turn.locked() and (self._pool is None or self._pool.has_room):
            async with self.pooled() as connection:
                yield connection
        else:
            async with self._turn:
                yield await self._connected()

    async def _run(
        self,
        connection: Connection,
        query: str,
        parameters: Mapping[str, object] | None,
        *,
        meanings: Meanings | None = None,
        prepare: bool | None = None,
        rows: RowFactory = dict_row,
    ) -> list[Any]:
        try:
            return await run(
                connection,
                query,
                parameters,
                seconds=self.settings.statement_seconds,
                shown=self.settings.shown,
                meanings=meanings,
                prepare=prepare,
                rows=rows,
            )
        except DatabaseUnreachable:
            await self._broke()
            raise

    async def _connected(self) -> Connection:
        """Return the first connection, made anew where there is none or it broke. The caller has the turn."""
        if self._first is not None:
            if not hung_up(self._first):
                return self._first
            broken, self._first = self._first, None
            await broken.close()
        self._first = await self._connect()
        self._was_there = True
        return self._first

    async def _connect(self) -> Connection:
        if not self._closed:
            connection = await self._connector.connect(patient=self._was_there)
            if not self._closed:
                return connection
            await connection.close()
        # a connection made now would be one that nobody closes, to a server that may stop for want of users
        raise DatabaseUnreachable(f"the connections to {self.settings.shown} were closed")

    async def _broke(self) -> None:
        """Have the connections replaced that nobody uses: what broke one may have broken them without a word."""
        if self._pool:
            await self._pool.drop_idle()
        if self._first is not None and not self._turn.locked():
            first, self._first = self._first, None
            await first.close()
