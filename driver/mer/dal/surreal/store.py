"""SurrealDB as a Store: inside this process, or on a server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from mer.core.chain import Head
from mer.core.errors import NotMigrated
from mer.dal import base
from mer.dal.description import Description
from mer.dal.filling import MAX_SOURCE, Filling
from mer.dal.surreal import appending
from mer.dal.surreal.access_log import SurrealAccessLog
from mer.dal.surreal.appending import GroupWriter
from mer.dal.surreal.connecting import connect_to
from mer.dal.surreal.describing import describe
from mer.dal.surreal.embedded import EmbeddedConnection
from mer.dal.surreal.entries import Entry
from mer.dal.surreal.executor import Direct, Executor
from mer.dal.surreal.leases import SurrealLeases
from mer.dal.surreal.login import Login
from mer.dal.surreal.migrations import Migrations
from mer.dal.surreal.models import SurrealModels
from mer.dal.surreal.placements import SurrealPlacements
from mer.dal.surreal.queries import load
from mer.dal.surreal.rows import from_row
from mer.dal.surreal.server import RECONNECT_SECONDS
from mer.dal.surreal.servers import SurrealServers
from mer.dal.surreal.unit import UnitOfWork, unit_of_work
from mer.dal.surreal.weights import SurrealWeights

STATEMENT_SECONDS = 10.0
LOCK_SECONDS = 10.0

IDLE_SECONDS = 0.25
"""How long the folder is held after the last piece of work: long enough that a run's records share one opening (25 to
45 ms), short enough that somebody who waits does not notice."""


class SurrealRepositories:
    """The nouns, over one way to run queries and one way to append."""

    def __init__(self, run: Executor, *, write: appending.Write) -> None:
        self._servers = SurrealServers(run)
        self._models = SurrealModels(run)
        self._weights = SurrealWeights(run)
        self._placements = SurrealPlacements(run)
        self._access_log = SurrealAccessLog(run, write=write)
        self._leases = SurrealLeases(run)

    @property
    def servers(self) -> base.Servers:
        return self._servers

    @property
    def models(self) -> base.Models:
        return self._models

    @property
    def weights(self) -> base.WeightsRepository:
        return self._weights

    @property
    def placements(self) -> base.Placements:
        return self._placements

    @property
    def access_log(self) -> base.AccessLog:
        return self._access_log

    @property
    def leases(self) -> base.Leases:
        return self._leases


class SurrealStore(SurrealRepositories):
    """One database: of a server, to which `login` logs in; `surrealkv://PATH`; or `mem://`, which migrates itself.

    `statement_seconds` is the deadline of each statement, `lock_seconds` how long to wait for another process that holds
    the folder, or for another change of this one; `idle_seconds` how long to hold the folder after the last piece of work;
    `reconnect_seconds` how long to go on trying a server that was there before.
    """

    def __init__(
        self,
        url: str,
        *,
        login: Login | None = None,
        statement_seconds: float = STATEMENT_SECONDS,
        lock_seconds: float = LOCK_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
        reconnect_seconds: float = RECONNECT_SECONDS,
    ) -> None:
        self._connection = connect_to(
            url,
            login=login,
            statement_seconds=statement_seconds,
            lock_seconds=lock_seconds,
            idle_seconds=idle_seconds,
            reconnect_seconds=reconnect_seconds,
        )
        self._login = login
        self._writer = GroupWriter(self._connection)
        self._run = Direct(self._connection)
        self._queries = load("access_log")
        super().__init__(self._run, write=self._writer.append)

    @property
    def name(self) -> str:
        return self._connection.name

    @property
    def elsewhere(self) -> bytes | None:
        return None

    async def open(self) -> None:
        if isinstance(self._connection, EmbeddedConnection) and self._connection.address.folder is None:
            await Migrations(self._connection).upgrade()
        try:
            self._check(await self.schema())
        except NotMigrated:
            await self._connection.close()  # whoever migrates it now is another process, and needs the folder
            raise

    async def close(self) -> None:
        await self._writer.close()
        await self._connection.close()

    async def schema(self) -> int | None:
        applied = await Migrations(self._connection).current()
        return applied[-1].number if applied else None

    async def describe(self) -> Description:
        return await describe(self._connection, self._login)

    async def filling(self) -> Filling | None:
        found = await self._run.ask(self._queries["filling"])
        return None if found is None else from_row(Filling, found)

    async def begin_filling(self, source: str) -> None:
        await self._fill(source[:MAX_SOURCE])
        self._writer.fills = True

    async def end_filling(self) -> None:
        await self._fill(None)
        self._writer.fills = False

    async def _fill(self, source: str | None) -> None:
        await self._run.ask(self._queries["request_fill" if self._run.shared else "fill"], source=source)

    def _check(self, found: int | None) -> None:
        if found is None:
            raise NotMigrated(f"{self.name} is not migrated", hint="run `mer-migrate upgrade`")
        if found < base.SCHEMA:
            raise NotMigrated(
                f"{self.name} has the schema {found:02}, this program needs {base.SCHEMA:02}",
                hint="run `mer-migrate upgrade`",
            )
        if found > base.SCHEMA:
            raise NotMigrated(
                f"{self.name} has the schema {found:02}, this program knows only {base.SCHEMA:02}",
                hint="a newer program made it: install that",
            )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[base.Repositories]:
        async with unit_of_work(self._connection) as unit:
            yield SurrealRepositories(unit, write=_appending_in(unit, fills=self._writer.fills))


def _appending_in(unit: UnitOfWork, *, fills: bool) -> appending.Write:
    """Return how a unit of work appends: last in its block, with every other writer waiting until it ends."""

    async def write(entries: Sequence[Entry]) -> tuple[Head, ...]:
        async with unit.changing():
            return await appending.append_settled(unit, entries, fills=fills)

    return write
