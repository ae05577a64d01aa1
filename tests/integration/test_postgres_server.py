"""A team's PostgreSQL: how one logs in to it, what is told where that is refused, and what of it is survived."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from mer.core.errors import (
    AuthenticationFailed,
    Busy,
    ConfigurationError,
    DatabaseUnreachable,
    MerError,
)
from mer.core.identifiers import uuid7
from mer.core.records import LeaseId
from mer.dal.base import Store
from mer.dal.open import open_store
from mer.dal.postgres.connecting import Connector
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer.dal.postgres.pool import Pool
from mer.dal.postgres.store import PostgresStore
from mer.settings import load
from tests.support import records
from tests.support.postgres import WIPED
from tests.support.postgres_server import DRIVER, TeamServer

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # with no .pgpass, no .postgresql and no .pg_service.conf


@pytest.fixture
def login(team_server: TeamServer) -> ConnectionSettings:
    return team_server.wiped()


@pytest.fixture
def own(team_server: TeamServer) -> Iterator[TeamServer]:
    """The server, to be restarted and to show other certificates; whatever a test did, it runs for the next one."""
    yield team_server
    if not team_server.runs():
        team_server.start()


@asynccontextmanager
async def opened(login: ConnectionSettings) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(login)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@contextmanager
def presented(server: TeamServer, certificate: trustme.LeafCert) -> Iterator[None]:
    """Have the server show another certificate for the block."""
    server.present(certificate)
    server.restart()
    try:
        yield
    finally:
        server.present(server.authority.issue_cert("localhost", "127.0.0.1"))
        server.restart()


async def one(store: PostgresStore, query: str) -> Any:
    (row,) = await store._connections.ask(query)
    return next(iter(row.values()))


async def refusal(login: ConnectionSettings) -> MerError:
    """Return why a store cannot be opened, and make sure that it gives no secret away."""
    with pytest.raises(MerError) as told:
        await PostgresStore(login).open()
    error = told.value
    secret = login.parameters["password"] if login.parameters else "none"
    assert secret not in f"{error!r} {error.message} {error.hint} {error.__cause__!r} {login!r}"
    return error


# --- how one logs in


async def test_what_an_operator_sets_opens_the_store_over_a_verified_connection(team_server: TeamServer) -> None:
    team_server.wiped()
    variables = {
        **team_server.environment(WIPED),
        "MER_DATABASE_CONNECTIONS": "3",
        "MER_DATABASE_RECONNECT_SECONDS": "7",
    }
    store = await open_store(load(environ=variables))
    assert isinstance(store, PostgresStore)
    assert await one(store, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") is True
    assert await one(store, "SELECT session_user::text") == DRIVER
    settings = store._connections.settings
    assert (settings.most_pooled, settings.reconnect_seconds) == (3, 7.0)
    await store.close()


async def test_postgres_is_the_same_scheme(team_server: TeamServer) -> None:
    login = team_server.wiped()
    async with opened(replace(login, url=login.url.replace("postgresql://", "postgres://"))) as store:
        assert (await store.models.page()).items == ()


async def test_pg_variables_say_what_the_url_does_not(
    team_server: TeamServer, login: ConnectionSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {
        "PGHOST": "localhost",
        "PGPORT": str(team_server.port),
        "PGDATABASE": WIPED,
        "PGUSER": DRIVER,
        "PGPASSWORD": team_server.passwords[DRIVER],
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": str(team_server.root_certificate),
        "PGAPPNAME": "nightly",
        "PGOPTIONS": "-c work_mem=5MB",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    async with opened(ConnectionSettings.from_url("postgresql://")) as store:
        assert await one(store, "SHOW application_name") == "nightly"
        assert await one(store, "SHOW work_mem") == "5MB"
        assert await one(store, "SHOW statement_timeout") == "10s"


async def test_a_server_sees_that_it_is_mer(login: ConnectionSettings) -> None:
    async with opened(login) as store:
        assert await one(store, "SHOW application_name") == "mer"


async def test_a_password_file_is_read(
    team_server: TeamServer, login: ConnectionSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / ".pgpass"
    file.write_text(f"localhost:{team_server.port}:*:{DRIVER}:{team_server.passwords[DRIVER]}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    async with opened(replace(login, parameters={"user": DRIVER})) as store:
        assert (await store.models.page()).items == ()


async def test_a_service_is_read(
    team_server: TeamServer, login: ConnectionSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "services").write_text(
        f"[team]\nhost=localhost\nport={team_server.port}\ndbname={WIPED}\nsslmode=verify-full\n"
        f"sslrootcert={team_server.root_certificate}\nuser={DRIVER}\npassword={team_server.passwords[DRIVER]}\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGSERVICE", "team")
    async with opened(ConnectionSettings.from_url("postgresql://")) as store:
        assert (await store.models.page()).items == ()


async def test_of_several_hosts_the_one_that_may_be_written_to_is_taken(
    team_server: TeamServer, login: ConnectionSettings
) -> None:
    url = login.url.replace("localhost:", "localhost:1,localhost:", 1) + "&target_session_attrs=read-write"
    async with opened(replace(login, url=url)) as store:
        assert (await store.models.page()).items == ()
    team_server.execute(f"ALTER DATABASE {WIPED} SET default_transaction_read_only = on")
    try:
        error = await refusal(replace(login, url=url))
    finally:
        team_server.execute(f"ALTER DATABASE {WIPED} RESET default_transaction_read_only")
    assert (type(error), error.exit_code) == (DatabaseUnreachable, 69)
    assert "read-only" in error.message


# --- what is told where it is refused


async def test_a_wrong_password_or_role_is_a_refused_login(login: ConnectionSettings) -> None:
    for wrong in ({"password": "wrong-secret"}, {"user": "nobody_of_ours"}):
        error = await refusal(replace(login, parameters={**login.parameters, **wrong}))
        assert (type(error), error.exit_code) == (AuthenticationFailed, 77)


async def test_a_role_without_the_right_to_connect_is_a_refused_login(team_server: TeamServer) -> None:
    team_server.execute("CREATE ROLE outsider LOGIN PASSWORD 'outside-secret'")
    try:
        url = team_server.url(WIPED)
        error = await refusal(ConnectionSettings.from_url(url, username="outsider", password="outside-secret"))
    finally:
        team_server.execute("DROP ROLE outsider")
    assert (type(error), error.exit_code) == (AuthenticationFailed, 77)


async def test_a_database_that_is_not_there_is_a_matter_of_configuration(team_server: TeamServer) -> None:
    error = await refusal(team_server.login(database="nowhere"))
    assert (type(error), error.exit_code) == (ConfigurationError, 78)
    assert "CREATE DATABASE" in (error.hint or "")


async def test_a_login_without_tls_where_the_server_wants_it_says_what_to_write(team_server: TeamServer) -> None:
    error = await refusal(team_server.login(sslmode="disable"))
    assert (type(error), error.exit_code) == (AuthenticationFailed, 77)
    assert "sslmode=verify-full" in (error.hint or "")


async def test_a_server_that_another_authority_signed_is_not_trusted(team_server: TeamServer, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    error = await refusal(team_server.login(sslrootcert=str(tmp_path / "other.pem")))
    assert (type(error), error.exit_code) == (AuthenticationFailed, 77)
    assert "openssl s_client" in (error.hint or "")


async def test_a_missing_root_certificate_is_a_matter_of_configuration(team_server: TeamServer, tmp_path: Path) -> None:
    error = await refusal(team_server.login(sslrootcert=str(tmp_path / "none.pem")))
    assert (type(error), error.exit_code) == (ConfigurationError, 78)
    assert "sslrootcert" in (error.hint or "")


@pytest.mark.parametrize("query", [{"sslmode": "nonsense"}, {"connect_timeout": "soon"}, {"service": "nowhere"}])
async def test_a_value_that_is_none_is_a_matter_of_configuration(
    team_server: TeamServer, query: Mapping[str, str]
) -> None:
    error = await refusal(team_server.login(**query))
    assert (type(error), error.exit_code) == (ConfigurationError, 78)


async def test_a_certificate_that_has_expired_is_not_trusted(own: TeamServer) -> None:
    now = dt.datetime.now(dt.UTC)
    expired = own.authority.issue_cert(
        "localhost", not_before=now - dt.timedelta(days=2), not_after=now - dt.timedelta(days=1)
    )
    with presented(own, expired):
        error = await refusal(own.login())
        assert (type(error), error.exit_code) == (AuthenticationFailed, 77)
        assert "expired" in (error.hint or "")
        async with opened(own.login(sslmode="require", sslrootcert="")):  # who verifies nothing sees nothing
            pass


async def test_a_certificate_of_another_host_is_not_trusted(own: TeamServer) -> None:
    with presented(own, own.authority.issue_cert("elsewhere.example")):
        error = await refusal(own.login())
        assert (type(error), error.exit_code) == (AuthenticationFailed, 77)
        assert "elsewhere.example" in error.message
        async with opened(own.login(sslmode="verify-ca")):  # the authority is verified, the name is not
            pass


async def test_a_server_without_tls_is_a_matter_of_configuration(own: TeamServer) -> None:
    own.configure(ssl="off")
    own.restart()
    try:
        error = await refusal(own.login())
    finally:
        own.configure()
        own.restart()
    assert (type(error), error.exit_code) == (ConfigurationError, 78)
    assert "offers no TLS" in error.message


async def test_a_server_that_is_full_is_busy(team_server: TeamServer) -> None:
    team_server.execute(f"ALTER ROLE {DRIVER} CONNECTION LIMIT 0")
    try:
        error = await refusal(team_server.login())
    finally:
        team_server.execute(f"ALTER ROLE {DRIVER} CONNECTION LIMIT -1")
    assert (type(error), error.exit_code) == (Busy, 75)
    assert "takes no more connections" in error.message


async def test_a_server_that_accepts_and_never_answers_meets_a_deadline() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"postgresql://127.0.0.1:{port}/mer?connect_timeout=2"  # libpq takes no less
        async with asyncio.timeout(10):
            error = await refusal(ConnectionSettings.from_url(url, username="ada", password="hanging-secret"))
    assert (type(error), error.exit_code) == (DatabaseUnreachable, 69)


def test_the_console_tells_a_refused_login_by_its_exit_code_and_no_secret(
    team_server: TeamServer, tmp_path: Path
) -> None:
    variables = {**team_server.environment(), "DRIVER_DB_PASSWORD": "wrong-secret", "MER_STATE_FOLDER": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mer", "log", "list"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 77, done.stderr
    assert "did not accept the login" in done.stderr
    assert "secret" not in done.stdout + done.stderr


async def test_no_log_of_ours_or_of_the_driver_below_holds_a_password(
    team_server: TeamServer, login: ConnectionSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="psycopg")  # it keeps itself to warnings
    password = team_server.passwords[DRIVER]
    within = login.url.replace("://", f"://{DRIVER}:{password}@")
    async with opened(ConnectionSettings.from_url(within)) as store:
        await registered(store)
    with pytest.raises(ConfigurationError):
        await PostgresStore(ConnectionSettings.from_url(within.replace(f"/{WIPED}?", "/nowhere?"))).open()
    assert "connection attempt" in caplog.text
    assert password not in caplog.text


# --- the pool


async def test_a_driver_keeps_no_more_connections_than_it_may(
    team_server: TeamServer, login: ConnectionSettings
) -> None:
    async with opened(replace(login, most_pooled=2, statement_seconds=1)) as store:
        enough = asyncio.Event()

        async def hold() -> None:
            async with store.transaction() as inside:
                while not enough.is_set():  # an idle transaction would be ended
                    await inside.models.page()
                    await asyncio.sleep(0.1)

        async with asyncio.TaskGroup() as holding:
            for _ in range(2):
                holding.create_task(hold())
            await asyncio.sleep(0.2)
            with pytest.raises(Busy, match="all 2 connections"):
                await registered(store)
            with team_server.connect(WIPED) as connection:
                count = connection.execute(
                    f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{DRIVER}'"
                ).fetchone()
            enough.set()
        assert count == (3,)
        await asyncio.gather(*(registered(store) for _ in range(6)))  # they wait for each other
        assert len((await store.models.page()).items) == 6


async def test_who_needs_a_connection_more_of_a_full_server_waits_for_it(
    team_server: TeamServer, login: ConnectionSettings
) -> None:
    async with opened(login) as store:
        team_server.execute(f"ALTER ROLE {DRIVER} CONNECTION LIMIT 1")
        try:
            waiting = asyncio.create_task(registered(store))
            await asyncio.sleep(0.3)
            assert not waiting.done()
        finally:
            team_server.execute(f"ALTER ROLE {DRIVER} CONNECTION LIMIT -1")
        async with asyncio.timeout(10):
            await waiting


async def registered(store: Store) -> None:
    async with store.transaction() as inside:
        await inside.models.add(records.model(uuid7()))


async def test_a_connection_that_nobody_wants_is_closed(login: ConnectionSettings) -> None:
    connector = Connector(login)
    pool = Pool(lambda: connector.connect(patient=False), most=2, wait_seconds=1, shown="it", idle_seconds=0.2)
    async with pool.lend() as first:
        pass
    async with pool.lend() as again:
        assert again is first
    async with asyncio.timeout(5):
        while not first.closed:  # noqa: ASYNC110 - a timer closes it
            await asyncio.sleep(0.05)
    async with pool.lend() as other:
        assert other is not first
    await pool.close()
    assert other.closed


# --- what of it is survived


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_between_two_calls_is_not_noticed(own: TeamServer, mode: str) -> None:
    async with opened(own.login()) as store:
        await registered(store)
        await asyncio.to_thread(own.restart, mode)
        await registered(store)
        chain = await store.access_log.chain()
        await asyncio.to_thread(own.restart, mode)
        await store.access_log.append([records.change(chain)])
        await asyncio.to_thread(own.restart, mode)
        await store.models.page()


@pytest.mark.slow
async def test_calls_outlast_a_server_that_refuses_connections_for_ten_seconds(own: TeamServer) -> None:
    # half a minute, though the default would do: on a machine that is busy the start itself may take some
    async with opened(replace(own.login(), reconnect_seconds=30)) as store:
        chain, lease = await store.access_log.chain(), LeaseId(uuid7())
        before = await store.access_log.head()
        await asyncio.to_thread(own.stop)
        calls = [
            asyncio.create_task(call)
            for call in (
                store.models.page(),
                store.access_log.append([records.started(chain, records.invocation(), lease=lease)]),
                registered(store),
            )
        ]
        await asyncio.sleep(10)
        assert not [call for call in calls if call.done()]
        await asyncio.to_thread(own.start)
        async with asyncio.timeout(10):
            await asyncio.gather(*calls)
        assert (await store.access_log.head()).seq == before.seq + 1


async def test_a_server_that_stays_away_is_unreachable_once_the_time_for_it_is_over(own: TeamServer) -> None:
    async with opened(replace(own.login(), reconnect_seconds=0.5)) as store:
        await asyncio.to_thread(own.stop)
        try:
            async with asyncio.timeout(10):
                for call in (store.models.page, lambda: registered(store)):
                    with pytest.raises(DatabaseUnreachable, match=r"asked \d+ times"):
                        await call()
        finally:
            await asyncio.to_thread(own.start)
        await registered(store)


async def test_what_is_not_there_at_first_is_told_at_once() -> None:
    login = ConnectionSettings.from_url("postgresql://127.0.0.1:1/mer", username="ada", password="early-secret")
    async with asyncio.timeout(5):
        error = await refusal(login)
    assert "asked" not in error.message
