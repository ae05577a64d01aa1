"""The store that ties the repositories in PostgreSQL together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec

from mer.core.chain import Head
from mer.core.errors import NotMigrated
from mer.dal.description import Description
from mer.dal.filling import MAX_SOURCE, Filling
from mer.dal.postgres.access_log import Append, PostgresAccessLog, repeatable
from mer.dal.postgres.appending import Appender
from mer.dal.postgres.connecting import Start
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer.dal.postgres.connections import Connections
from mer.dal.postgres.describing import describe
from mer.dal.postgres.elsewhere import told
from mer.dal.postgres.leases import PostgresLeases
from mer.dal.postgres.models import PostgresModels
from mer.dal.postgres.placements import PostgresPlacements
from mer.dal.postgres.queries import queries
from mer.dal.postgres.schema import CURRENT, check_schema
from mer.dal.postgres.servers import PostgresServers
from mer.dal.postgres.session import Connection, Session, run
from mer.dal.postgres.transaction_session import TransactionSession
from mer.dal.postgres.weights import PostgresWeights


class PostgresRepositories:
    """The nouns over one session: the store's, or a transaction's."""

    def __init__(self, session: Session, *, append: Append, alone: bool) -> None:
        self.servers = PostgresServers(session)
        self.models = PostgresModels(session)
        self.weights = PostgresWeights(session)
        self.placements = PostgresPlacements(session)
        self.access_log = PostgresAccessLog(session, append=append, alone=alone)
        self.leases = PostgresLeases(session)


class PostgresStore(PostgresRepositories):
    """One database on a PostgreSQL server.

    `start` starts an embedded server; it blocks, and is called in a thread where nobody answers. `closed` is called when
    this store has closed its connections.
    """

    def __init__(
        self,
        settings: ConnectionSettings,
        *,
        start: Start | None = None,
        closed: Callable[[], None] | None = None,
    ) -> None:
        self._closed = closed
        self._connections = Connections(settings, start=start)
        self._queries = queries("access_log")
        self._fills = False
        """Whether it is this store that the database is being filled by."""
        self._appender = Appender(self._queries["append_one"], seconds=settings.statement_seconds, shown=settings.shown)
        super().__init__(self._connections, append=self._append, alone=True)

    @property
    def name(self) -> str:
        return self._connections.settings.shown

    @property
    def elsewhere(self) -> bytes | None:
        return told(self._connections.settings)

    async def open(self) -> None:
        await self._connections.open()
        try:
            check_schema(await self.schema(), self.name)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await self._connections.close()
        if self._closed:
            self._closed()

    async def schema(self) -> int | None:
        try:
            rows = await self._connections.ask(CURRENT, repeatable=True)
        except NotMigrated:
            return None
        number: int | None = rows[0]["number"]
        return number

    async def describe(self) -> Description:
        return await describe(self._connections)

    async def filling(self) -> Filling | None:
        rows = await self._connections.ask(self._queries["filling"], repeatable=True)
        return msgspec.convert(rows[0], Filling) if rows else None

    async def begin_filling(self, source: str) -> None:
        query = self._queries["begin_filling"]
        await self._connections.ask(query, {"source": source[:MAX_SOURCE]}, repeatable=True)
        self._fills = True

    async def end_filling(self) -> None:
        await self._connections.ask(self._queries["end_filling"], repeatable=True)
        self._fills = False

    @property
    def _append_query(self) -> str:
        return self._queries["fill" if self._fills else "append"]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[PostgresRepositories]:
        async with self._connections.pooled() as connection:
            session = TransactionSession(connection, self._connections.settings)

            async def append(bodies: Sequence[str]) -> tuple[Head, ...]:
                rows = await session.ask(self._append_query, {"bodies": list(bodies)})
                return tuple(Head(**row) for row in rows)

            try:
                await session.begin()
                yield PostgresRepositories(session, append=append, alone=False)
                await session.commit()
            finally:
                await session.end()

    async def _append(self, bodies: Sequence[str]) -> tuple[Head, ...]:
        async def one(connection: Connection) -> tuple[Head, ...]:
            return (await self._appender.append(connection, bodies[0]),)

        async def group(connection: Connection) -> tuple[Head, ...]:
            settings = self._connections.settings
            rows = await run(
                connection,
                self._append_query,
                {"bodies": list(bodies)},
                seconds=settings.statement_seconds,
                shown=settings.shown,
            )
            return tuple(Head(**row) for row in rows)

        return await self._connections.in_turn(
            one if len(bodies) == 1 and not self._fills else group, repeatable=lambda: repeatable(bodies)
        )
