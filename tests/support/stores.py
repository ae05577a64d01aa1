"""The stores that the contract suite runs over: a name each, and how a test gets an empty, migrated database of it.

To add one, put a factory into STORES. It is given the test's request, for fixtures of its own.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from mer.dal.base import Store
from mer.dal.memory import MemoryStore
from mer.dal.postgres.store import PostgresStore
from mer.dal.surreal import SurrealStore
from tests.support.postgres import WIPED, PostgresServer
from tests.support.postgres_server import TeamServer
from tests.support.surreal_servers import DRIVER, SurrealServer


@dataclass(frozen=True, kw_only=True)
class Database:
    """One empty, migrated database."""

    connect: Callable[[], Store]
    """Makes a store on it, not opened yet. Where not `shared`, the one before must be closed first."""
    shared: bool
    """Whether several stores, and several processes, may hold it open at once."""
    lasting: bool = True
    """Whether what it holds outlives the store that was closed."""
    environment: dict[str, str] = field(default_factory=dict)
    """What tests/support/writer.py needs to open it in a process of its own; empty where none can."""


Factory = Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Database]]

STORES: dict[str, Factory] = {}


def store(name: str) -> Callable[[Factory], Factory]:
    """Put a factory into STORES under that name."""

    def put(factory: Factory) -> Factory:
        STORES[name] = factory
        return factory

    return put


@store("memory")
@asynccontextmanager
async def memory(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    held = MemoryStore()
    yield Database(connect=lambda: held, shared=True)


@store("surrealkv")
@asynccontextmanager
async def surrealkv(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    folder = request.getfixturevalue("tmp_path") / "registry"
    shutil.copytree(request.getfixturevalue("surreal_folder"), folder)  # a tenth of a second less than migrating
    url = f"surrealkv://{folder}"
    yield Database(connect=lambda: SurrealStore(url), shared=False, environment={"DB_CONNECTION_URL": url})


@store("mem")
@asynccontextmanager
async def mem(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    yield Database(connect=lambda: SurrealStore("mem://"), shared=False, lasting=False)


@store("postgres")
@asynccontextmanager
async def postgres(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    server: PostgresServer = request.getfixturevalue("postgres_server")
    login = server.wiped().driver()
    yield Database(
        connect=lambda: PostgresStore(login),
        shared=True,
        environment={"FOLDER": str(server.folder), "DATABASE": login.parameters["dbname"]},
    )


@store("postgres-server")
@asynccontextmanager
async def postgres_server(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    server: TeamServer = request.getfixturevalue("team_server")
    login = server.wiped()
    yield Database(connect=lambda: PostgresStore(login), shared=True, environment=server.environment(WIPED))


@store("surreal-ws")
@asynccontextmanager
async def surreal_websocket(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    server: SurrealServer = request.getfixturevalue("surreal_server")
    url = await server.migrated()
    yield Database(connect=lambda: SurrealStore(url, login=DRIVER), shared=True, environment=server.environment(url))
