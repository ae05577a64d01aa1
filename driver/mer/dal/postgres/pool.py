"""Connections that are lent, one to each borrower: made when none is free, closed when nobody has wanted them for a while.

Not psycopg_pool: that connects behind its borrowers' backs, so that they wait for their whole deadline and are never told
why there is no connection (docs/decisions/06-own-pool.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from psycopg.pq import TransactionStatus

from mer.core.errors import Busy, DatabaseUnreachable
from mer.dal.postgres.session import Connection, hung_up

IDLE_SECONDS = 60.0
"""How long a connection that nobody wants is kept: a team's server has places for hundreds, and a REPL is open all day."""


class Pool:
    """At most `most` connections at once; `connect` makes one."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        *,
        most: int,
        wait_seconds: float,
        shown: str,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._connect = connect
        self._most = most
        self._places = asyncio.Semaphore(most)
        self._connecting = 0
        self._idle: list[tuple[Connection, float]] = []
        self._wait_seconds = wait_seconds
        self._shown = shown
        self._idle_seconds = idle_seconds
        self._sweeping: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def has_room(self) -> bool:
        """Whether a borrower would wait for nobody."""
        return not self._places.locked()

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Connection]:
        """Give a connection for the block. One that comes back broken, or within a transaction, is closed.

        Raises:
            Busy: all are in use, and none came back in time.
            What `connect` raises.
        """
        await self._take_place()
        try:
            connection = await self._free_or_new()
            try:
                yield connection
            finally:
                await self._give_back(connection)
        finally:
            self._places.release()

    async def drop_idle(self) -> None:
        """Close what is not lent: what broke one connection may have broken the others, and they would say so in minutes."""
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            await connection.close()

    async def close(self) -> None:
        """Close every connection, those that are lent when they come back. Closing twice is no fault."""
        self._closed = True
        if self._sweeping:
            self._sweeping.cancel()
            self._sweeping = None
        await self.drop_idle()

    async def _take_place(self) -> None:
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._places.acquire()
        except TimeoutError as error:
            if self._connecting:
                raise DatabaseUnreachable(f"{self._shown} does not answer others who connect to it") from error
            raise Busy(
                f"all {self._most} connections to {self._shown} are in use",
                hint="MER_DATABASE_CONNECTIONS says how many there may be.",
            ) from error

    async def _free_or_new(self) -> Connection:
        while self._idle:
            connection, _ = self._idle.pop()  # the one used last: those that nobody needs get old below it
            if not hung_up(connection):
                return connection
            await connection.close()
        self._connecting += 1
        try:
            return await self._connect()
        finally:
            self._connecting -= 1

    async def _give_back(self, connection: Connection) -> None:
        usable = connection.info.transaction_status is TransactionStatus.IDLE and not hung_up(connection)
        if self._closed or not usable:
            await connection.close()
            return
        loop = asyncio.get_running_loop()
        self._idle.append((connection, loop.time()))
        if self._sweeping is None:
            self._sweeping = loop.call_later(self._idle_seconds, self._sweep)

    def _sweep(self) -> None:
        """Close what has been idle for long, and come back for the rest."""
        loop = asyncio.get_running_loop()
        long_ago = loop.time() - self._idle_seconds
        old = [connection for connection, since in self._idle if since <= long_ago]
        self._idle = [entry for entry in self._idle if entry[1] > long_ago]
        for connection in old:
            connection.pgconn.finish()  # what its close() does, without a task of its own
        self._sweeping = None
        if self._idle:
            self._sweeping = loop.call_at(self._idle[0][1] + self._idle_seconds, self._sweep)
