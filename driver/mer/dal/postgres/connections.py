"""A store's connections: one that is always there and appends, and a small pool for what has to go beside it.

A one-shot command gets by with the first. A connection that broke is replaced at the next call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, dict_row

from mer.core.errors import Busy, DatabaseUnreachable, MerError
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer.dal.postgres.conninfo import CONNECT_SECONDS, conninfo
from mer.dal.postgres.errors import ConnectionLost, Meanings, StillStarting, translate_connecting
from mer.dal.postgres.service import no_service
from mer.dal.postgres.session import GRACE_SECONDS, Connection, RowFactory, hang_up, run

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

MAX_POOLED = 4
"""Connections beside the first: transactions, scans, and what is read while an append is under way."""

STARTING_SECONDS = 60.0
"""How long to go on asking a server that says it is starting: a recovery of 1.8 GB took 11 s."""

LOCK_SHARE = 0.8
"""Of the statement's deadline: waiting for a lock ends first, and says that it was a lock."""

PAUSE_SECONDS = 0.05

CLOSE_SECONDS = 2.0
"""How long closing a pool waits for its workers; one that opens a connection to nowhere is left to itself."""

Start = Callable[[], object]

# psycopg and its pool tell of every failed attempt; those that matter arrive as errors where somebody waits for them
logging.getLogger("psycopg").addHandler(logging.NullHandler())


class Connections:
    """The connections of one store; `start` starts an embedded server that does not run (it blocks)."""

    def __init__(self, settings: ConnectionSettings, *, start: Start | None = None) -> None:
        self.settings = settings
        self._start = start
        self._first: Connection | None = None
        self._turn = asyncio.Lock()
        self._pool: AsyncConnectionPool[Connection] | None = None
        self._pool_making = asyncio.Lock()
        self._suspect = False
        self._connection_class = _HermeticConnection if settings.hermetic else psycopg.AsyncConnection[TupleRow]

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

        try:
            return await once()
        except ConnectionLost:
            if not repeatable:
                raise
            return await once()

    async def ask_in_turn(
        self, query: str, parameters: Mapping[str, object], *, repeatable: Callable[[], bool]
    ) -> list[Any]:
        """Run a statement on the first connection, after those that wait for it: appends keep their order.

        Whether it is `repeatable` is asked only where an answer was lost: to know it takes a look into every body.
        """

        async def once() -> list[Any]:
            async with self._turn:
                return await self._run(await self._connected(), query, parameters)

        try:
            return await once()
        except ConnectionLost:
            if not repeatable():
                raise
            return await once()

    @asynccontextmanager
    async def pooled(self) -> AsyncIterator[Connection]:
        """Give a connection beside the first, for a transaction or a scan."""
        if self._suspect or self._first is None:
            async with self._turn:
                await self._connected()  # says at once what a pool would only run into its timeout over
        pool = await self._opened_pool()
        import psycopg_pool

        try:
            connection = await pool.getconn()
        except psycopg_pool.PoolTimeout as error:
            raise Busy(f"all {MAX_POOLED} connections to {self.settings.shown} are in use") from error
        except psycopg_pool.PoolClosed as error:
            raise ConnectionLost(f"{self.settings.shown} went away while a connection was waited for") from error
        try:
            yield connection
        except (ConnectionLost, DatabaseUnreachable):
            self._suspect = True
            raise
        finally:
            await pool.putconn(connection)

    async def open(self) -> None:
        """Connect. Raises: DatabaseUnreachable, AuthenticationFailed."""
        async with self._turn:
            await self._connected()

    async def close(self) -> None:
        """Close every connection; closing twice is no fault."""
        pool, self._pool = self._pool, None
        first, self._first = self._first, None
        if pool:
            await pool.close(timeout=CLOSE_SECONDS)
        if first:
            await first.close()

    @asynccontextmanager
    async def _any(self) -> AsyncIterator[Connection]:
        if self._turn.locked():
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

    async def _connected(self) -> Connection:
        """Return the first connection, made anew where there is none or it broke. The caller has the turn."""
        if self._first is not None and not self._first.closed:
            return self._first
        self._suspect = self._first is not None  # what broke this one broke the pooled ones too
        self._first = None
        try:
            self._first = await self._connect()
        except DatabaseUnreachable:
            if self._start is None:
                raise
            await asyncio.to_thread(self._start)
            self._first = await self._connect()
        return self._first

    async def _connect(self) -> Connection:
        until = asyncio.get_running_loop().time() + STARTING_SECONDS
        while True:
            try:
                return await self._connect_once()
            except StillStarting:
                if asyncio.get_running_loop().time() > until:
                    raise
                await asyncio.sleep(PAUSE_SECONDS)

    async def _connect_once(self) -> Connection:
        try:
            async with asyncio.timeout(CONNECT_SECONDS + GRACE_SECONDS):
                return await self._connection_class.connect(self._conninfo(), autocommit=True)
        except psycopg.OperationalError as error:
            raise translate_connecting(error, self.settings.shown) from error
        except TimeoutError as error:
            raise DatabaseUnreachable(f"{self.settings.shown} took no connection within {CONNECT_SECONDS} s") from error

    def _conninfo(self) -> str:
        milliseconds = max(1, round(self.settings.statement_seconds * 1000))
        return conninfo(
            self.settings,
            statement_timeout=str(milliseconds),
            lock_timeout=str(max(1, round(milliseconds * LOCK_SHARE))),
            idle_in_transaction_session_timeout=str(milliseconds),  # who stops holding a lock would stop everybody
            default_transaction_isolation=r"read\ committed",  # the append function takes no other
            timezone="UTC",
        )

    async def _opened_pool(self) -> AsyncConnectionPool[Connection]:
        from psycopg_pool import AsyncConnectionPool  # a one-shot that only reads never pays for it

        async with self._pool_making:
            if self._suspect:
                # not looked through: a connection whose server is gone may take minutes to say so
                self._suspect = False
                broken, self._pool = self._pool, None
                if broken:
                    await broken.close(timeout=CLOSE_SECONDS)
            if self._pool is None:
                pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
                    self._conninfo(),
                    connection_class=self._connection_class,
                    kwargs={"autocommit": True},
                    min_size=0,
                    max_size=MAX_POOLED,
                    timeout=self.settings.statement_seconds,
                    num_workers=1,
                    open=False,
                )
                await pool.open()
                self._pool = pool
            return self._pool


class _HermeticConnection(psycopg.AsyncConnection[TupleRow]):
    @classmethod
    async def connect(cls, conninfo: str = "", **rest: Any) -> Self:
        with no_service(hermetic=True):
            return await super().connect(conninfo, **rest)


class TransactionSession:
    """The statements of one transaction, all on its connection.

    Its beginning and its end are statements with a deadline like any other: psycopg's own have none.
    """

    def __init__(self, connection: Connection, settings: ConnectionSettings) -> None:
        self._connection = connection
        self._settings = settings
        self._refused: MerError | None = None

    @property
    def in_transaction(self) -> bool:
        return True

    async def ask(
        self,
        query: str,
        parameters: Mapping[str, object] | None = None,
        *,
        meanings: Meanings | None = None,
        repeatable: bool = False,  # noqa: ARG002 - what came before in the transaction is lost with its connection
        prepare: bool | None = None,
        rows: RowFactory = dict_row,
    ) -> list[Any]:
        self._still_accepted()
        try:
            return await run(
                self._connection,
                query,
                parameters,
                seconds=self._settings.statement_seconds,
                shown=self._settings.shown,
                meanings=meanings,
                prepare=prepare,
                rows=rows,
            )
        except MerError as error:
            self._refused = error
            raise

    async def begin(self) -> None:
        """Begin it. Raises: DatabaseUnreachable."""
        await self.ask("BEGIN ISOLATION LEVEL READ COMMITTED")  # the append function takes no other

    async def commit(self) -> None:
        """Commit it.

        Raises:
            What a statement of it was refused with, though its caller passed over that. DatabaseUnreachable.
        """
        self._still_accepted()
        await self.ask("COMMIT")

    async def end(self) -> None:
        """Take back what was not committed; a connection on which that is not possible is cut."""
        try:
            if self._connection.info.transaction_status is not TransactionStatus.IDLE and not self._connection.closed:
                with suppress(MerError):  # the caller has an error already
                    await run(
                        self._connection,
                        "ROLLBACK",
                        None,
                        seconds=self._settings.statement_seconds,
                        shown=self._settings.shown,
                    )
        finally:
            if self._connection.info.transaction_status is not TransactionStatus.IDLE:
                hang_up(self._connection)

    def _still_accepted(self) -> None:
        # PostgreSQL answers a COMMIT of such a transaction with a rollback, and calls it no error
        if self._refused and self._connection.info.transaction_status is TransactionStatus.INERROR:
            raise self._refused
