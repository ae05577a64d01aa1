"""Moves of size, moves that are cut, and sources and destinations that are not as they should be."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mer.core.chain import Head
from mer.core.errors import Busy, ConcurrentChange, DatabaseNotEmpty, DatabaseUnreachable, LogNotVerified, NotAllowed
from mer.core.records import LeaseId
from mer.dal.base import Store
from mer.dal.memory import MemoryStore
from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer.dal.postgres.store import PostgresStore
from mer.dal.surreal import SurrealStore
from mer.dal.surreal.connecting import connect_to
from mer.dal.surreal.login import Login
from mer.databases import copy
from mer.execution.process import this_process
from mer.moving.lost import record_lost
from mer.moving.source import StoreSource
from mer.moving.transfer import TRIES, transfer
from mer.settings import Settings, load
from tests.support import records
from tests.support.databases import variables_of
from tests.support.houses import append, furnish, sound, whole
from tests.support.postgres import PostgresServer, tampering
from tests.support.registry import ADA
from tests.support.surreal import migrated
from tests.support.surreal_servers import AUDITOR, DRIVER, SurrealServer

LONG = 50_000


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Store]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def databases(postgres_server: PostgresServer) -> Iterator[Any]:
    """Three fresh databases of the embedded server."""
    with postgres_server.copy() as one, postgres_server.copy() as two, postgres_server.copy() as three:
        yield one, two, three


def settings_of(database: EmbeddedPostgres, state_folder: Path) -> Settings:
    """Return what leads to a database as if it were a server's."""
    more = {"ALLOW_MODEL_SERVER_RUNTIME_CHANGES": "true", "MER_STATE_FOLDER": str(state_folder)}
    return load(environ=variables_of(database) | more)


@pytest.mark.slow
async def test_fifty_thousand_records_move_to_another_postgres_and_back(databases: Any) -> None:
    async with AsyncExitStack() as closing:
        home, team, back = [
            await closing.enter_async_context(opened(PostgresStore(each.driver()))) for each in databases
        ]
        await furnish(home)
        await append(home, LONG)
        counts: list[tuple[str, int, int]] = []
        moved = await transfer(StoreSource(home), team, progress=lambda *told: counts.append(told))
        assert moved.records == LONG
        assert counts[-1] == ("copied", LONG, LONG)
        await transfer(StoreSource(team), back)
        there = await whole(team)
        assert there == await whole(home)
        assert there == await whole(back)
        assert await sound(team)
        assert await sound(back)


async def test_a_folder_of_surrealdb_gives_to_postgres_and_takes_from_it(databases: Any, tmp_path: Path) -> None:
    async with AsyncExitStack() as closing:
        home, back = [await closing.enter_async_context(opened(PostgresStore(each.driver()))) for each in databases[:2]]
        url = await migrated(tmp_path / "registry")
        folder = await closing.enter_async_context(opened(SurrealStore(url)))
        await furnish(home)
        await append(home, 3000)
        await transfer(StoreSource(home), folder)
        await transfer(StoreSource(folder), back)
        assert await whole(folder) == await whole(home)
        assert await whole(back) == await whole(home)
        assert await sound(folder)


class Failing:
    """A source that goes away after some records: what a connection that is lost looks like."""

    def __init__(self, source: StoreSource, after: int) -> None:
        self._source = source
        self._left = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    async def records(self, *, after: int, until: int) -> AsyncIterator[Any]:
        async for some in self._source.records(after=after, until=until):
            if self._left <= 0:
                raise DatabaseUnreachable("gone")
            self._left -= len(some)
            yield some


async def filled(count: int = 2500) -> MemoryStore:
    store = MemoryStore()
    await furnish(store)
    await append(store, count)
    return store


async def test_a_source_that_goes_away_again_and_again_is_moved_bit_by_bit() -> None:
    old, new = await filled(5000), MemoryStore()
    heads: list[int] = []
    for _ in range(10):
        try:
            await transfer(Failing(StoreSource(old), after=1500), new)
            break
        except DatabaseUnreachable:
            heads.append((await new.access_log.head()).seq)
    assert heads == sorted(set(heads))
    assert len(heads) > 1
    assert await whole(new) == await whole(old)


async def test_a_record_that_does_not_hold_is_named_and_not_moved(postgres_server: PostgresServer) -> None:
    with postgres_server.copy() as database:
        async with opened(PostgresStore(database.driver())) as old:
            await furnish(old)
            await append(old, 6000)
            with tampering(database) as hand:
                hand.execute("UPDATE mer.access SET body = replace(body, 'ada', 'eve') WHERE seq = 4711")
            new = MemoryStore()
            with pytest.raises(LogNotVerified, match="record 4711: its body does not have its digest"):
                await transfer(StoreSource(old), new)
            assert (await new.access_log.head()).seq < 4711


async def test_a_source_whose_tail_was_cut_is_refused(postgres_server: PostgresServer) -> None:
    with postgres_server.copy() as database:
        async with opened(PostgresStore(database.driver())) as old:
            await append(old, 10)
            with tampering(database) as hand:
                hand.execute("DELETE FROM mer.access WHERE seq = 9")
            with pytest.raises(LogNotVerified, match="record 9 missing"):
                await transfer(StoreSource(old), MemoryStore())


async def test_what_is_refused_is_not_marked_and_what_was_begun_is() -> None:
    old, strange, new = await filled(20), await filled(3), MemoryStore()
    with pytest.raises(DatabaseNotEmpty):
        await transfer(StoreSource(old), strange)
    assert await strange.filling() is None
    with pytest.raises(DatabaseUnreachable):
        await transfer(Failing(StoreSource(old), after=0), new)
    assert await new.filling() is not None
    assert (await new.access_log.head()).seq == 0


class Late(StoreSource):
    """A source during whose first look somebody writes to the destination."""

    def __init__(self, store: Store, destination: Store) -> None:
        super().__init__(store)
        self._destination: Store | None = destination

    async def head(self) -> Head:
        destination, self._destination = self._destination, None
        if destination:
            await append(destination, 1)
        return await super().head()


async def test_who_came_between_the_look_and_the_mark_keeps_the_database() -> None:
    old, new = await filled(20), MemoryStore()
    with pytest.raises(DatabaseNotEmpty):
        await transfer(Late(old, new), new)
    assert await new.filling() is None


async def test_logs_that_have_parted_are_told_apart_whichever_is_longer() -> None:
    old, new = await filled(20), MemoryStore()
    await transfer(StoreSource(old), new)
    await append(new, 1)
    await append(old, 1)
    for more in (old, new):
        await append(more, 2)
        with pytest.raises(DatabaseNotEmpty, match="have parted"):
            await transfer(StoreSource(old), new)


async def test_a_destination_that_has_gone_on_is_left_alone() -> None:
    old, new = await filled(20), MemoryStore()
    await transfer(StoreSource(old), new)
    await append(new, 5)
    await new.models.add(records.model("made there"))
    before = await whole(new)
    assert (await transfer(StoreSource(old), new)).gone_on
    assert await whole(new) == before


async def test_a_registry_without_a_log_is_something_else() -> None:
    new = MemoryStore()
    await new.models.add(records.model("stranger"))
    with pytest.raises(DatabaseNotEmpty, match="model 'stranger'"):
        await transfer(StoreSource(await filled(3)), new)


async def test_an_empty_database_can_be_moved() -> None:
    old, new = MemoryStore(), MemoryStore()
    assert (await transfer(StoreSource(old), new)).records == 0
    assert await whole(new) == await whole(old)
    assert (await new.access_log.head()) == Head(seq=0, digest="0" * 64)


class Changing(StoreSource):
    """A database whose registry is changed while it is read, that many times."""

    def __init__(self, store: Store, times: int) -> None:
        super().__init__(store)
        self.store = store
        self.times = times

    async def nouns(self) -> AsyncIterator[Any]:
        async for noun in super().nouns():
            yield noun
        if self.times:
            self.times -= 1
            await self.store.models.add(records.model(f"new {self.times}"))
            await self.store.access_log.append([records.change(await self.store.access_log.chain())])


async def test_a_registry_that_changes_while_it_is_read_is_read_again() -> None:
    old, new = await filled(20), MemoryStore()
    source = Changing(old, times=3)
    await transfer(source, new)
    assert source.times == 0
    assert await whole(new) == await whole(old)


async def test_a_registry_that_never_rests_is_given_up() -> None:
    with pytest.raises(ConcurrentChange, match="was changed"):
        await transfer(Changing(await filled(5), times=10 * TRIES), MemoryStore())


class Interfered(StoreSource):
    """A source during whose reading somebody writes to the destination."""

    def __init__(self, store: Store, destination: Store) -> None:
        super().__init__(store)
        self._destination = destination

    async def records(self, *, after: int, until: int) -> AsyncIterator[Any]:
        async for some in super().records(after=after, until=until):
            yield some
            await append(self._destination, 1)


async def test_somebody_else_who_writes_to_the_destination_is_noticed() -> None:
    old, new = await filled(3000), MemoryStore()
    with pytest.raises(DatabaseNotEmpty, match="somebody else writes to it"):
        await transfer(Interfered(old, new), new)


async def test_of_two_copies_at_once_none_begins_unseen(databases: Any, tmp_path: Path) -> None:
    one, new = (settings_of(each, tmp_path) for each in databases[:2])
    async with opened(PostgresStore(databases[0].driver())) as old:
        await furnish(old)
        await append(old, 3000)
    async with opened(PostgresStore(databases[1].driver())) as there:
        both = await asyncio.gather(*[copy(one, new, actor=ADA) for _ in range(2)], return_exceptions=True)
        refused = [each for each in both if isinstance(each, BaseException)]
        assert refused
        assert all(isinstance(each, Busy) and "brings something there itself" in str(each) for each in refused)
        assert not await there.leases.all()
        moved = await copy(one, new, actor=ADA)
        assert moved.head.seq > 3000  # what was open is lost
        assert await sound(there)
        assert not await there.leases.all()


async def test_a_driver_that_began_during_the_copy_leaves_the_mark(databases: Any, tmp_path: Path) -> None:
    one, new = (settings_of(each, tmp_path) for each in databases[:2])
    here = this_process()
    begun: list[str] = []

    def begin(*_: object) -> None:
        if not begun:
            begun.append("")
            with psycopg.connect(conninfo(databases[0].superuser()), autocommit=True) as hand:
                hand.execute(
                    "INSERT INTO mer.lease VALUES (gen_random_uuid(), %s, %s, %s, %s, %s, 'ada', now(), now())",
                    (here.host, here.boot_id, here.pid_namespace, here.pid, here.process_started),
                )

    async with (
        opened(PostgresStore(databases[0].driver())) as old,
        opened(PostgresStore(databases[1].driver())) as there,
    ):
        await append(old, 3000)
        with pytest.raises(Busy, match="began during the copy"):
            await copy(one, new, actor=ADA, progress=begin)
        assert await there.filling() is not None
        for lease in await old.leases.all():
            await old.leases.release(lease.id)
        await copy(one, new, actor=ADA)
        assert await there.filling() is None


async def test_what_was_open_is_lost_where_nobody_will_finish_it() -> None:
    store = MemoryStore()
    chain, held = await store.access_log.chain(), records.lease()
    await store.leases.acquire(held)
    of = [records.invocation() for _ in range(3)]
    gone = LeaseId("gone")
    await store.access_log.append([records.started(chain, each, lease=gone) for each in of[:2]])
    await store.access_log.append([records.started(chain, of[2], lease=held.id)])
    assert await record_lost(store, actor=ADA, clock=lambda: records.NOON, why="it moved") == 2
    assert [each.invocation for each in await store.access_log.unfinished()] == [of[2]]
    last = (await store.access_log.of_invocation(of[0]))[-1]
    assert last.columns["outcome"] == "lost"
    assert await record_lost(store, actor=ADA, clock=lambda: records.NOON, why="it moved") == 0
    assert await sound(store)


async def test_an_auditor_gives_no_chain_a_name(postgres_server: PostgresServer) -> None:
    async with opened(PostgresStore(postgres_server.wiped().auditor())) as store:
        with pytest.raises(NotAllowed):
            await store.access_log.adopt_chain(str(uuid.uuid4()))


@pytest.mark.parametrize("login", [DRIVER, AUDITOR], ids=["the driver", "the auditor"])
async def test_a_chain_with_records_keeps_its_name_whatever_is_asked_of_the_server(
    surreal_server: SurrealServer, login: Login
) -> None:
    url = await surreal_server.migrated()
    async with opened(SurrealStore(url, login=DRIVER)) as store:
        await append(store, 1)
        name = await store.access_log.chain()
        connection = connect_to(url, login=login, statement_seconds=10, lock_seconds=10, idle_seconds=1)
        try:
            for statement in ("CREATE chain_request SET chain = $name", "UPDATE access_head:1 SET chain = $name"):
                answers = await connection.run(statement, {"name": str(uuid.uuid4())})
                assert answers[0]["status"] == "ERR", (statement, answers)
        finally:
            await connection.close()
        assert await store.access_log.chain() == name
        assert await sound(store)
