"""A PostgreSQL that is down, not migrated, of another password, or goes away in the middle."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from mer.audit.writer import GroupWriter
from mer.core.chain import Head
from mer.core.errors import (
    AuthenticationFailed,
    ConcurrentChange,
    ConfigurationError,
    DatabaseUnreachable,
    MerError,
    NotMigrated,
    UsageError,
)
from mer.core.identifiers import uuid7
from mer.core.records import LeaseId
from mer.dal.postgres.connection_settings import MOST_POOLED, RECONNECT_SECONDS, ConnectionSettings
from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer.dal.postgres.errors import ConnectionLost, translate
from mer.dal.postgres.refusals import CHOICES
from mer.dal.postgres.store import PostgresStore
from tests.support import records
from tests.support.postgres import PostgresServer, state_folder


@pytest.fixture
def database(postgres_server: PostgresServer) -> EmbeddedPostgres:
    return postgres_server.wiped()


@pytest.fixture(scope="module")
def own() -> Iterator[EmbeddedPostgres]:
    """A server of this file's own, to be killed."""
    with state_folder() as folder:
        yield PostgresServer(folder).database("mer")


def cut(database: EmbeddedPostgres) -> None:
    """End every connection of the driver, as a restart of the server would, and wait until they are ended."""
    with psycopg.connect(conninfo(database.superuser()), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'mer_driver'")


async def until_it_waits(database: EmbeddedPostgres, event: str = "wait_event_type = 'Lock'") -> None:
    """Wait until a statement of the driver's waits: for a lock, where nothing else is said."""
    waiting = f"SELECT count(*) FROM pg_stat_activity WHERE usename = 'mer_driver' AND {event}"
    with psycopg.connect(conninfo(database.superuser()), autocommit=True) as connection:
        async with asyncio.timeout(10):
            while connection.execute(waiting).fetchone() != (1,):  # noqa: ASYNC110 - it happens in another process
                await asyncio.sleep(0.01)


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(DatabaseUnreachable, match=r"127\.0\.0\.1:1/mer"):
        await PostgresStore(ConnectionSettings.from_url("postgresql://ada:secret@127.0.0.1:1/mer")).open()


async def test_what_is_told_of_an_unreachable_server_has_no_password() -> None:
    with pytest.raises(DatabaseUnreachable) as told:
        await PostgresStore(ConnectionSettings.from_url("postgresql://ada:secret@127.0.0.1:1/mer")).open()
    assert "secret" not in f"{told.value.message} {told.value.hint}"


async def test_a_wrong_password_is_told_as_such(database: EmbeddedPostgres) -> None:
    login = database.driver()
    wrong = replace(login, parameters={**login.parameters, "password": "wrong"})
    with pytest.raises(AuthenticationFailed):
        await PostgresStore(wrong).open()


async def test_a_url_that_is_none_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="no PostgreSQL URL"):
        await PostgresStore(ConnectionSettings.from_url("postgresql://h/mer?nonsense=1")).open()


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://{'a' * 70}.example/mer",
        "postgresql://a..b/mer",
        "postgresql://%ff/mer",
        "postgresql://ada:secr%ffet@127.0.0.1:1/mer",
        "postgresql://h:x/mer",
        "postgresql://127.0.0.1:1,127.0.0.1:2,127.0.0.1:3/mer?port=1,2",
        f"postgresql:///mer?host=/tmp/{'x' * 200}",
        "postgresql://127.0.0.1:1/mer?hostaddr=bogus",
        *(f"postgresql://127.0.0.1:1/mer?{keyword}=bogus" for keyword in CHOICES),
        "postgresql://127.0.0.1:1/mer?sslnegotiation=direct&sslmode=prefer",
    ],
)
async def test_a_value_in_the_url_that_is_none_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        await PostgresStore(ConnectionSettings.from_url(url)).open()
    assert "secr" not in f"{told.value.message} {told.value.hint}"


async def test_a_database_that_was_never_migrated_says_what_to_run(postgres_server: PostgresServer) -> None:
    store = PostgresStore(postgres_server.database("postgres").superuser())
    with pytest.raises(NotMigrated, match="never migrated") as told:
        await store.open()
    assert "mer-migrate upgrade" in (told.value.hint or "")


async def test_a_database_that_is_not_there_is_a_configuration_error(postgres_server: PostgresServer) -> None:
    with pytest.raises(ConfigurationError, match="is not there"):
        await PostgresStore(postgres_server.database("nowhere").driver()).open()


async def test_a_read_goes_on_over_a_new_connection(database: EmbeddedPostgres) -> None:
    store = PostgresStore(database.driver())
    await store.open()
    cut(database)
    assert (await store.models.page()).items == ()
    await store.close()


async def test_an_append_of_runs_goes_on_over_a_new_connection_and_stands_once(database: EmbeddedPostgres) -> None:
    store = PostgresStore(database.driver())
    await store.open()
    chain = await store.access_log.chain()
    body = records.started(chain, records.invocation(), lease=LeaseId(uuid7()))
    cut(database)
    (place,) = await store.access_log.append([body])
    assert place.seq == 1
    await store.close()


async def test_a_change_goes_on_over_a_new_connection_where_the_old_one_was_idle(database: EmbeddedPostgres) -> None:
    store = PostgresStore(database.driver())
    await store.open()
    body = records.change(await store.access_log.chain())
    cut(database)
    (place,) = await store.access_log.append([body])
    assert place.seq == 1
    async with store.transaction() as inside:
        await inside.models.add(records.model("digits"))
    cut(database)
    async with store.transaction() as inside:
        await inside.models.add(records.model("other"))
    await store.close()


async def test_a_change_whose_answer_was_lost_is_never_appended_blindly_again(database: EmbeddedPostgres) -> None:
    store = PostgresStore(database.driver())
    await store.open()
    body = records.change(await store.access_log.chain())
    with psycopg.connect(conninfo(database.owner())) as other:
        other.execute("LOCK TABLE mer.access_lock IN EXCLUSIVE MODE")
        appending = asyncio.create_task(store.access_log.append([body]))
        await until_it_waits(database)
        cut(database)
        with pytest.raises(DatabaseUnreachable):
            await appending
    (place,) = await store.access_log.append([body])
    assert place.seq == 1
    await store.close()


async def test_a_transaction_that_lost_its_connection_has_not_happened(database: EmbeddedPostgres) -> None:
    store = PostgresStore(database.driver())
    await store.open()

    async def block() -> None:
        async with store.transaction() as inside:
            await inside.models.add(records.model("digits"))
            cut(database)
            await inside.models.add(records.model("other"))

    with pytest.raises(DatabaseUnreachable):
        await block()
    assert (await store.models.page()).items == ()
    async with store.transaction() as inside:
        await inside.models.add(records.model("digits"))
    assert len((await store.models.page()).items) == 1
    await store.close()


async def test_a_killed_embedded_server_is_started_by_the_next_call(own: EmbeddedPostgres) -> None:
    store = PostgresStore(own.driver(), start=own.ensure_running)
    await store.open()
    await store.models.add(records.model(name := uuid7()))
    pid = own.status().pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    assert (await store.models.get(name)).name == name
    await store.close()


async def test_a_server_that_hangs_meets_the_deadline(own: EmbeddedPostgres) -> None:
    store = PostgresStore(own.ensure_running(statement_seconds=0.2))
    await store.open()
    backend = await store._connections.ask("SELECT pg_backend_pid() AS pid")
    os.kill(backend[0]["pid"], signal.SIGSTOP)
    try:
        async with asyncio.timeout(10):
            with pytest.raises(DatabaseUnreachable, match="did not answer"):
                await store.models.page()
            assert await store.models.page() is not None  # over a new connection
    finally:
        os.kill(backend[0]["pid"], signal.SIGCONT)
    await store.close()


async def test_a_commit_that_hangs_meets_the_deadline(own: EmbeddedPostgres) -> None:
    store = PostgresStore(own.ensure_running(statement_seconds=0.2))
    await store.open()
    stopped: list[int] = []

    async def block() -> None:
        async with store.transaction() as inside:
            await inside.models.add(records.model(uuid7()))
            backend = await inside.models._session.ask("SELECT pg_backend_pid() AS pid")
            stopped.append(backend[0]["pid"])
            os.kill(stopped[0], signal.SIGSTOP)

    try:
        async with asyncio.timeout(10):
            with pytest.raises(DatabaseUnreachable, match="did not answer"):
                await block()
            async with store.transaction() as inside:
                await inside.models.add(records.model(uuid7()))
    finally:
        os.kill(stopped[0], signal.SIGCONT)
    await store.close()


@pytest.mark.parametrize("further", ["another statement", "the commit"])
async def test_a_transaction_that_slept_too_long_is_unreachable_and_has_not_happened(
    database: EmbeddedPostgres, further: str
) -> None:
    store = PostgresStore(replace(database.driver(), statement_seconds=0.1))
    await store.open()

    async def block() -> None:
        async with store.transaction() as inside:
            await inside.models.add(records.model("digits"))
            await asyncio.sleep(0.5)
            if further == "another statement":
                await inside.models.page()

    with pytest.raises(DatabaseUnreachable):
        await block()
    assert (await store.models.page()).items == ()
    await store.close()


async def test_who_gives_up_twice_on_a_server_that_hangs_leaves_nothing_behind(own: EmbeddedPostgres) -> None:
    store = PostgresStore(own.ensure_running(statement_seconds=5))
    await store.open()
    before = asyncio.all_tasks()
    backend = await store._connections.ask("SELECT pg_backend_pid() AS pid")
    asking = asyncio.create_task(store._connections.ask("SELECT pg_sleep(60)"))
    await asyncio.sleep(0.1)
    os.kill(backend[0]["pid"], signal.SIGSTOP)
    try:
        asking.cancel()
        await asyncio.sleep(0.05)
        asking.cancel()
        async with asyncio.timeout(1):
            await asyncio.wait([asking])
            await store.models.page()  # over a new connection
        await asyncio.sleep(0.1)
        assert asyncio.all_tasks() == before
    finally:
        os.kill(backend[0]["pid"], signal.SIGCONT)
    await store.close()


async def test_transactions_that_are_given_up_at_any_moment_leak_no_connection(database: EmbeddedPostgres) -> None:
    store = PostgresStore(replace(database.driver(), statement_seconds=2))
    await store.open()
    chain = await store.access_log.chain()

    async def block() -> None:
        async with store.transaction() as inside:
            await inside.models.add(records.model(uuid7()))
            await inside.access_log.append([records.change(chain)])

    for turns in range(60):
        task = asyncio.create_task(block())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    await asyncio.gather(*(block() for _ in range(MOST_POOLED)))
    found = (await store.models.page(limit=100)).items
    assert len(found) == (await store.access_log.head()).seq  # each change with its record, or neither
    await store.close()


async def test_a_statement_that_takes_too_long_is_ended(database: EmbeddedPostgres) -> None:
    login = replace(database.driver(), statement_seconds=0.2)
    store = PostgresStore(login)
    await store.open()
    with pytest.raises(DatabaseUnreachable, match="statement timeout"):
        await store._connections.ask("SELECT pg_sleep(5)")
    await store.close()


async def test_who_waits_too_long_for_a_lock_may_try_again(database: EmbeddedPostgres) -> None:
    store = PostgresStore(replace(database.driver(), statement_seconds=0.5))
    await store.open()
    body = records.change(await store.access_log.chain())
    with psycopg.connect(conninfo(database.owner())) as other:
        other.execute("LOCK TABLE mer.access_lock IN EXCLUSIVE MODE")
        with pytest.raises(ConcurrentChange):
            await store.access_log.append([body])
    await store.access_log.append([body])
    await store.close()


async def test_an_append_that_is_given_up_while_it_waits_costs_a_connection_and_nothing_else(
    database: EmbeddedPostgres,
) -> None:
    store = PostgresStore(database.driver())
    await store.open()
    chain = await store.access_log.chain()
    with psycopg.connect(conninfo(database.superuser())) as holder:
        holder.execute("LOCK TABLE mer.access_lock IN EXCLUSIVE MODE")
        given_up = asyncio.create_task(store.access_log.append([records.change(chain)]))
        while holder.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() == (0,):  # noqa: ASYNC110 - the database tells no event
            await asyncio.sleep(0.01)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
    kept = records.change(chain)
    (place,) = await store.access_log.append([kept])
    assert (await store.access_log.get(place.seq)).body == kept
    await store.close()


async def test_a_nul_in_a_body_that_comes_alone_is_refused_and_not_cut_there(database: EmbeddedPostgres) -> None:
    store = PostgresStore(database.driver())
    await store.open()
    body = records.change(await store.access_log.chain())
    with pytest.raises(MerError, match="a record was refused"):
        await store.access_log.append([body + "\0and more"])
    assert (await store.access_log.head()).seq == 0
    await store.access_log.append([body])
    await store.close()


async def test_a_nul_in_a_text_is_refused_as_such(database: EmbeddedPostgres) -> None:
    store = PostgresStore(database.driver())
    await store.open()
    with pytest.raises(UsageError):
        await store.models.add(records.model("digits", description="a\0b"))
    await store.close()


async def test_a_text_that_no_index_holds_is_refused_at_once_and_takes_no_other_record_with_it(
    database: EmbeddedPostgres,
) -> None:
    store = PostgresStore(database.driver())
    await store.open()
    chain, long = await store.access_log.chain(), secrets.token_hex(10_000)
    wrong = records.started(chain, records.invocation(), lease=LeaseId(uuid7()), model=long)
    right = records.started(chain, records.invocation(), lease=LeaseId(uuid7()))
    async with asyncio.timeout(RECONNECT_SECONDS / 2), GroupWriter(store.access_log) as writer:
        refused, taken = await asyncio.gather(writer.append(wrong), writer.append(right), return_exceptions=True)
    assert isinstance(refused, MerError)
    assert not refused.retryable
    assert isinstance(taken, Head)
    with pytest.raises(UsageError, match="cannot hold that"):
        await store.servers.add(records.server(long))
    await store.close()


@pytest.mark.parametrize("state", ["25P04", "57P01", "08006"])
def test_a_server_that_ends_a_connection_has_lost_it(state: str) -> None:
    assert isinstance(translate(psycopg.errors.lookup(state)("gone"), "it", {}), ConnectionLost)


@pytest.mark.parametrize("state", ["53400", "55006", "57014", "58030"])
def test_a_server_that_answers_has_not_lost_the_connection(state: str) -> None:
    found = translate(psycopg.errors.lookup(state)("no"), "it", {})
    assert type(found) is DatabaseUnreachable


async def test_a_transaction_of_which_a_statement_was_given_up_is_never_called_committed(
    database: EmbeddedPostgres,
) -> None:
    store = PostgresStore(database.driver())
    await store.open()

    async def block() -> None:
        async with store.transaction() as inside:
            await inside.models.add(records.model("digits"))
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await inside.models._session.ask("SELECT pg_sleep(60)")

    with pytest.raises(DatabaseUnreachable, match="given up"):
        await block()
    assert (await store.models.page()).items == ()
    await store.close()


async def test_who_asks_a_store_that_was_closed_leaves_no_connection_behind(database: EmbeddedPostgres) -> None:
    store = PostgresStore(database.driver())
    await store.open()
    asking = asyncio.create_task(store._connections.ask("SELECT pg_sleep(60)", repeatable=True))
    await until_it_waits(database, "wait_event = 'PgSleep'")
    await store.close()
    for late in (asking, store.models.page()):
        with pytest.raises(DatabaseUnreachable):
            await late
    with pytest.raises(DatabaseUnreachable, match="were closed"):
        async with store.transaction():
            pass
    with psycopg.connect(conninfo(database.superuser()), autocommit=True) as connection:
        sleeping = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'mer_driver' AND query !~ 'pg_sleep'"
        assert connection.execute(sleeping).fetchone() == (0,)
    await store.open()
    assert await store.models.page() is not None
    await store.close()


async def test_transactions_that_have_every_connection_may_ask_beside_themselves(database: EmbeddedPostgres) -> None:
    store = PostgresStore(replace(database.driver(), statement_seconds=5))
    await store.open()
    body = records.change(await store.access_log.chain())
    begun, going = asyncio.Barrier(MOST_POOLED + 1), asyncio.Event()

    async def block() -> None:
        async with store.transaction() as inside:
            await inside.models.add(records.model(uuid7()))
            await begun.wait()
            await going.wait()
            await store.servers.page()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(MOST_POOLED):
            tasks.create_task(block())
        await begun.wait()
        with psycopg.connect(conninfo(database.owner())) as other:
            other.execute("LOCK TABLE mer.access_lock IN EXCLUSIVE MODE")
            tasks.create_task(store.access_log.append([body]))
            await until_it_waits(database)
            going.set()
            await asyncio.sleep(0.1)
    assert len((await store.models.page()).items) == MOST_POOLED
    await store.close()


async def test_one_store_uses_one_connection_while_calls_come_one_by_one(database: EmbeddedPostgres) -> None:
    store = PostgresStore(database.driver())
    await store.open()
    await store.access_log.append([records.change(await store.access_log.chain())])
    await store.models.page()
    with psycopg.connect(conninfo(database.superuser())) as connection:
        count = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = 'mer_driver'").fetchone()
    assert count == (1,)
    await store.close()


def test_a_url_is_shown_without_its_secrets() -> None:
    login = ConnectionSettings.from_url(
        "postgresql://ada:s%40cret@db.example:6543/mer?password=other", password="third"
    )
    assert login.shown == "postgresql://db.example:6543/mer"
    assert not [secret for secret in ("cret", "other", "third", "ada") if secret in repr(login)]


def test_folders_of_the_tests_are_gone() -> None:
    with state_folder() as folder:
        assert folder.is_dir()
    assert not Path(folder).exists()
