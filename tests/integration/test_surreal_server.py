"""A SurrealDB server that restarts, hangs, refuses or is somebody else's; TLS and HTTP; several processes that append at once."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mer.core.chain import Verifier
from mer.core.errors import ConcurrentChange, ConfigurationError, DatabaseUnreachable
from mer.core.records import LeaseId
from mer.dal.surreal import SurrealStore, engines, server
from mer.dal.surreal.address import parse_server_address
from tests.support import records
from tests.support.surreal_server import HOST
from tests.support.surreal_servers import DRIVER, OWNER, REPOSITORY, SurrealServer, by_hand, running

LEASE = LeaseId("a lease")


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[SurrealServer]:
    """A server of its own, whose data outlive it."""
    with running(SurrealServer(engine=f"surrealkv://{tmp_path}/data")) as started:
        yield started


@pytest.fixture
async def store(lasting: SurrealServer) -> AsyncIterator[SurrealStore]:
    made = SurrealStore(await lasting.migrated(), login=DRIVER, statement_seconds=5)
    await made.open()
    yield made
    await made.close()


async def verified(store: SurrealStore) -> int:
    """Return how many records there are, once they have verified."""
    verifier = Verifier(chain=await store.access_log.chain())
    seen = 0
    async for chunk in store.access_log.scan():
        verifier.feed(chunk)
        seen += len(chunk)
    assert verifier.finish() == []
    return seen


async def restarted(server: SurrealServer) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


async def test_a_server_that_restarts_is_found_again(lasting: SurrealServer, store: SurrealStore) -> None:
    chain = await store.access_log.chain()
    await store.access_log.append([records.change(chain)])
    await store.models.add(records.model("digits"))
    await restarted(lasting)
    assert (await store.models.get("digits")).name == "digits"
    await restarted(lasting)
    await store.access_log.append([records.change(chain)])
    await restarted(lasting)
    await store.models.add(records.model("other"))
    assert await verified(store) == 2


async def test_an_append_whose_answer_was_lost_is_sent_again(lasting: SurrealServer, store: SurrealStore) -> None:
    chain, of = await store.access_log.chain(), records.invocation()
    lasting.signal(signal.SIGSTOP)
    appending = asyncio.create_task(store.access_log.append([records.started(chain, of, lease=LEASE)]))
    await asyncio.sleep(0.2)
    await restarted(lasting)
    (place,) = await appending
    assert place.seq == 1
    assert await verified(store) == 1


async def test_a_server_that_refuses_for_some_seconds_is_waited_for(
    lasting: SurrealServer, store: SurrealStore
) -> None:
    lasting.kill()
    asking = asyncio.create_task(store.models.page())
    await asyncio.sleep(2)
    assert not asking.done()
    await asyncio.to_thread(lasting.start)
    assert (await asking).items == ()


async def test_a_server_that_stays_away_is_told_after_a_bounded_time(
    lasting: SurrealServer, store: SurrealStore
) -> None:
    hasty = SurrealStore(store.name, login=DRIVER, reconnect_seconds=0.5)
    await hasty.open()
    await asyncio.to_thread(lasting.kill)
    with pytest.raises(DatabaseUnreachable, match="cannot be reached"):
        await hasty.models.page()
    await hasty.close()


async def test_a_server_that_is_not_there_is_told_at_once() -> None:
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    absent = SurrealStore(f"ws://{HOST}:{port}", login=DRIVER)
    began = time.monotonic()
    with pytest.raises(DatabaseUnreachable, match=f"ws://{HOST}:{port}/mer/mer cannot be reached"):
        await absent.open()
    assert time.monotonic() - began < 5
    await absent.close()


@pytest.mark.parametrize(
    ("scheme", "advice"), [("ws", "Is the server running"), ("wss", "write ws://"), ("https", "write ws://")]
)
async def test_what_cannot_be_reached_comes_with_advice(lasting: SurrealServer, scheme: str, advice: str) -> None:
    url = lasting.url().replace("ws://", f"{scheme}://")
    if scheme == "ws":
        await asyncio.to_thread(lasting.kill)
    absent = SurrealStore(url, login=DRIVER)
    with pytest.raises(DatabaseUnreachable) as caught:
        await absent.open()
    assert advice in (caught.value.hint or "")
    await absent.close()


async def test_a_server_that_hangs_meets_the_deadline(lasting: SurrealServer, store: SurrealStore) -> None:
    hasty = SurrealStore(store.name, login=DRIVER, statement_seconds=0.5)
    await hasty.open()
    lasting.signal(signal.SIGSTOP)
    try:
        with pytest.raises(DatabaseUnreachable, match=r"within 0\.5 s"):
            await hasty.models.page()
    finally:
        lasting.signal(signal.SIGCONT)
    assert (await hasty.models.page()).items == ()
    await hasty.close()


async def test_what_the_server_killed_in_the_middle_is_there_or_not_but_never_half(
    lasting: SurrealServer, store: SurrealStore
) -> None:
    chain = await store.access_log.chain()
    acknowledged = []

    async def pour() -> None:
        while True:
            of = records.invocation()
            await store.access_log.append(
                [records.started(chain, of, lease=LEASE), records.finished(chain, of, lease=LEASE)]
            )
            acknowledged.append(of)

    pouring = [asyncio.create_task(pour()) for _ in range(4)]
    await asyncio.sleep(0.5)
    await restarted(lasting)
    await asyncio.sleep(0.5)
    for task in pouring:
        task.cancel()
    outcomes = await asyncio.gather(*pouring, return_exceptions=True)
    assert all(isinstance(each, DatabaseUnreachable | asyncio.CancelledError) for each in outcomes)
    assert acknowledged
    there: Counter[object] = Counter()
    verifier = Verifier(chain=chain)
    # in one reading: a group whose callers were cancelled is not cut off, and may arrive meanwhile
    async for chunk in store.access_log.scan():
        verifier.feed(chunk)
        there.update(record.columns["invocation"] for record in chunk)
    assert set(there.values()) == {2}
    assert set(acknowledged) <= set(there)
    assert verifier.finish() == []


async def test_a_change_whose_answer_was_lost_is_not_made_twice(lasting: SurrealServer, store: SurrealStore) -> None:
    await store.models.add(records.model("digits"))
    lasting.signal(signal.SIGSTOP)
    changing = asyncio.create_task(store.models.add(records.model("other")))
    await asyncio.sleep(0.2)
    lasting.kill()
    with pytest.raises(DatabaseUnreachable, match="went away before it answered"):
        await changing
    await asyncio.to_thread(lasting.start)
    names = [model.name for model in (await store.models.page()).items]
    assert names in (["digits"], ["digits", "other"])


async def test_an_engine_that_restarts_under_a_transaction_ends_it_whole(
    lasting: SurrealServer, store: SurrealStore
) -> None:
    async def block() -> None:
        async with store.transaction() as inside:
            await inside.models.add(records.model("digits"))
            await restarted(lasting)
            await inside.servers.add(records.server("gpu"))

    await block()  # what was tried was never kept: the whole of it is committed at the end
    assert [model.name for model in (await store.models.page()).items] == ["digits"]
    assert [gpu.name for gpu in (await store.servers.page()).items] == ["gpu"]


async def test_a_session_that_the_server_has_ended_logs_in_again(store: SurrealStore) -> None:
    connection = store._connection
    assert isinstance(connection, server.ServerConnection)
    assert connection._engine
    await connection._engine.invalidate()  # type: ignore[attr-defined]
    await store.models.add(records.model("digits"))
    assert (await store.models.get("digits")).name == "digits"


async def test_several_writers_in_a_process_of_their_own_keep_one_chain(surreal_server: SurrealServer) -> None:
    url = await surreal_server.migrated()
    store = SurrealStore(url, login=DRIVER)
    await store.open()
    others = [SurrealStore(url, login=DRIVER) for _ in range(3)]
    await asyncio.gather(*(other.open() for other in others))
    chain = await store.access_log.chain()
    shares: Counter[int] = Counter()
    acknowledged: list[tuple[int, str, str]] = []
    until = time.monotonic() + 3

    async def pour(number: int, writer: SurrealStore) -> None:
        while time.monotonic() < until:
            body = records.change(chain, writer=number, number=len(acknowledged))
            (place,) = await writer.access_log.append([body])
            acknowledged.append((place.seq, place.digest, body))
            shares[number] += 1

    async def register() -> None:
        for number in range(5):
            for _ in range(100):
                try:
                    async with store.transaction() as inside:
                        await inside.models.add(records.model(f"n{number}"))
                        await inside.access_log.append([records.change(chain, number=number)])
                    break
                except ConcurrentChange:
                    await asyncio.sleep(0.01)
            else:
                raise AssertionError("a change never came through")

    await asyncio.gather(register(), *(pour(number, other) for number, other in enumerate(others) for _ in range(4)))
    assert await verified(store) == len(acknowledged) + 5
    there = {(each.seq, each.digest, each.body) async for chunk in store.access_log.scan() for each in chunk}
    assert set(acknowledged) <= there
    assert min(shares.values()) * 4 > max(shares.values()), shares
    for each in (store, *others):
        await each.close()


async def test_a_server_that_would_lose_appends_since_it_is_in_memory_is_refused_where_two_drivers_meet() -> None:
    with running(SurrealServer(engine="mem://")) as forgetful:
        url = await forgetful.migrated()
        stores = [SurrealStore(url, login=DRIVER) for _ in range(3)]
        for each in stores:
            await each.open()
        chain = await stores[0].access_log.chain()

        async def pour(writer: SurrealStore) -> None:
            while True:
                await writer.access_log.append([records.change(chain)])

        pouring = [asyncio.create_task(pour(each)) for each in stores]
        ended, going = await asyncio.wait(pouring, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)
        assert ended
        for task in ended:
            with pytest.raises(ConfigurationError, match="keeps its data in memory"):
                task.result()
        for each in stores:
            await each.close()


async def test_an_engine_that_is_too_old_is_refused(
    surreal_server: SurrealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await surreal_server.migrated()
    monkeypatch.setattr(engines, "OLDEST", (99, 1))
    old = SurrealStore(url, login=DRIVER)
    with pytest.raises(ConfigurationError, match=r"mer needs SurrealDB 99\.1 or newer"):
        await old.open()
    await old.close()


@pytest.mark.parametrize("told", ["surrealdb-3.0.5", "surrealdb-2.4.0+20251201", "3.1.9", "PostgreSQL 18", ""])
def test_engines_that_lose_what_they_acknowledge_are_known_by_their_version(told: str) -> None:
    with pytest.raises(ConfigurationError, match=r"needs SurrealDB 3\.2 or newer"):
        engines.check_version("a server", told)


@pytest.mark.parametrize("told", ["surrealdb-3.2.4", "3.2.0", "surrealdb-3.10.0+20270101.abc", "surrealdb-4.0.0"])
def test_engines_that_keep_it_are_taken(told: str) -> None:
    engines.check_version("a server", told)


async def test_http_does_what_the_websocket_does(surreal_server: SurrealServer) -> None:
    url = (await surreal_server.migrated()).replace("ws://", "http://")
    store = SurrealStore(url, login=DRIVER)
    await store.open()
    async with store.transaction() as inside:
        await inside.models.add(records.model("digits"))
        await inside.access_log.append([records.change(await store.access_log.chain())])
    assert (await store.models.get("digits")).name == "digits"
    assert await verified(store) == 1
    await store.close()


def test_a_server_of_something_else_is_told(tmp_path: Path) -> None:
    """A web server that knows no websocket."""
    import http.server
    import threading

    web = http.server.ThreadingHTTPServer((HOST, 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=web.serve_forever, daemon=True).start()

    async def ask(scheme: str) -> None:
        store = SurrealStore(f"{scheme}://{HOST}:{web.server_port}", login=DRIVER)
        try:
            await store.open()
        finally:
            await store.close()

    try:
        for scheme in ("ws", "http"):
            with pytest.raises(DatabaseUnreachable, match="cannot be reached"):
                asyncio.run(ask(scheme))
    finally:
        web.shutdown()
        web.server_close()


TALK = """
import asyncio, sys
from mer.core.errors import MerError
from mer.dal.surreal import SurrealStore
from tests.support.surreal_servers import DRIVER
async def main():
    store = SurrealStore(sys.argv[1], login=DRIVER)
    try:
        await store.open()
        print("open", await store.schema())
    except MerError as error:
        print(type(error).__name__, error)
    await store.close()
asyncio.run(main())
"""


@pytest.mark.parametrize("scheme", ["wss", "https"])
def test_tls_is_verified_against_the_authorities_of_the_system(tmp_path: Path, scheme: str) -> None:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    with running(SurrealServer(scheme=scheme, certificate=(certificate, key))) as serving:

        def talk(authorities: str) -> str:
            return subprocess.run(
                [sys.executable, "-c", TALK, serving.url()],
                cwd=REPOSITORY,
                env={"PATH": "", "PYTHONPATH": str(REPOSITORY), "SSL_CERT_FILE": authorities},
                capture_output=True,
                text=True,
                check=True,
            ).stdout

        assert "NotMigrated" in talk(str(certificate))
        untrusted = talk("/dev/null")
        assert "DatabaseUnreachable" in untrusted
        assert "certificate verify failed" in untrusted


@pytest.mark.parametrize(
    "url",
    [
        "ws://",
        "ws:///mer/mer",
        "ws://host:99999",
        "ws://host/one",
        "ws://host/one/two/three",
        "ws://host/mer/m-r",
        "ws://host/mer/mer?x=1",
        "ws://host/mer/mer#x",
        "ws://user:secret@host/mer/mer",
        "ws://[::1/mer/mer",
        "ftp://host",
    ],
)
def test_a_url_that_is_no_servers_is_refused_and_no_secret_told(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_server_address(url)
    assert "secret" not in f"{caught.value.message}{caught.value.hint}"


@pytest.mark.parametrize("host", ["a..b", "." * 3, "a" * 64])
def test_a_name_that_no_host_can_have_is_no_address(host: str) -> None:
    with pytest.raises(ConfigurationError, match="no host and port"):
        parse_server_address(f"ws://{host}")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("ws://host", "ws://host:8000/mer/mer"),
        ("wss://host:1/a/b", "wss://host:1/a/b"),
        ("http://host", "http://host:8000/mer/mer"),
        ("wss://host", "wss://host:443/mer/mer"),
        ("https://[::1]/a/b/", "https://[::1]:443/a/b"),
    ],
)
def test_a_server_is_shown_whole(url: str, name: str) -> None:
    assert parse_server_address(url).name == name


async def test_without_a_name_nobody_logs_in() -> None:
    with pytest.raises(ConfigurationError, match="as whom"):
        SurrealStore("ws://host")


async def test_the_owner_of_the_server_may_make_the_database(surreal_server: SurrealServer) -> None:
    url = surreal_server.url("of_its_own")
    (told,) = await by_hand(url, "INFO FOR DB", login=OWNER)
    assert told["status"] == "OK"
