"""A model on several servers: one that cannot be reached is passed over, one that is lost in the middle is told as such."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mer.api import Mer
from mer.audit.bodies import Bodies, Subject
from mer.core.errors import (
    Busy,
    ConfigurationError,
    DeadlineExceeded,
    PackageInvalid,
    ServerUnreachable,
    UsageError,
    WorkerLost,
)
from mer.core.identifiers import uuid7
from mer.core.records import AccessFilter, InvocationId, LeaseId, ServerKind
from tests.support import sshd
from tests.support.passwords import ByPassword, listening
from tests.support.registry import ADA
from tests.support.running import register, running
from tests.support.typing_in import Terminal, environ_of
from tests.support.workers import alive, until

ECHO = """
    def load():
        return lambda inputs: inputs
"""

SLOW = """
    import os, time

    def load():
        def handle(inputs):
            print("running", flush=True)
            if not os.path.exists(inputs["marker"]):
                open(inputs["marker"], "w").close()
                time.sleep(60)
            return {"ran": 1}
        return handle
"""


@pytest.fixture
def server() -> sshd.Sshd:
    return sshd.of_process()


@pytest.fixture
def closed() -> Any:
    """A port at which nothing listens."""
    with socket.socket() as taken:
        taken.bind((sshd.HOST, 0))
        yield taken.getsockname()[1]


@contextlib.asynccontextmanager
async def driver(server: sshd.Sshd, folder: Path, **given: Any) -> AsyncIterator[Mer]:
    config = sshd.operator(server).config
    async with running(folder, ssh_config=str(config), **given) as m:
        yield m


async def far(m: Mer, server: sshd.Sshd, name: str, *, port: int | None = None) -> None:
    """Register a server whose cache may lie below /tmp, as it does in tests."""
    parameters = {"address": sshd.HOST, "port": port or server.port, "user": server.user}
    made = await m.servers.register(ADA, name, kind=ServerKind.SSH, parameters=parameters)
    m._ping._hosts.of(made)._shared_cache = True  # type: ignore[attr-defined]


async def place(m: Mer, *servers: str, model: str = "model") -> None:
    for name in servers:
        await m.placements.place(ADA, model, name)


async def bodies(m: Mer, kind: str) -> list[dict[str, Any]]:
    """The bodies of one kind of records, oldest first."""
    page = await m.log.list(AccessFilter(model="model"), limit=1000)
    found = [json.loads(record.body) for record in reversed(page.items)]
    return [body for body in found if body["kind"] == kind]


async def busy(m: Mer, server: str) -> None:
    """Have an invocation of another driver unfinished on record there, so that the next one goes elsewhere."""
    invocation, subject = InvocationId(uuid7()), Subject(reference="model", model="model", version=1, server=server)
    log = m._store.access_log
    made = Bodies(chain=await log.chain())
    now, lease = dt.datetime.now(dt.UTC), LeaseId(uuid7())
    await log.append([made.started(at=now, actor=ADA, lease=lease, invocation=invocation, subject=subject)])


async def test_one_that_cannot_be_reached_is_passed_over_and_on_record(
    server: sshd.Sshd, closed: int, tmp_path: Path
) -> None:
    async with driver(server, tmp_path) as m:
        await register(m, tmp_path, ECHO)
        await far(m, server, "gpu1", port=closed)
        await far(m, server, "gpu2")
        await place(m, "gpu1", "gpu2")
        await busy(m, "gpu2")
        result = await m.run("model", {"x": 1})
        assert (result.server, [each.server for each in result.failed_attempts]) == ("gpu2", ["gpu1"])
        started, finished = (await bodies(m, "started"))[-1], (await bodies(m, "finished"))[-1]
        assert (started["server"], finished["server"], finished["outcome"]) == ("gpu1", "gpu2", "succeeded")
        assert finished["attempts"] == 2
        [attempt] = finished["failed_attempts"]
        assert (attempt["server"], attempt["code"]) == ("gpu1", "server-unreachable")
        assert finished["host_key"].startswith("SHA256:")
        await busy(m, "gpu2")
        again = await m.run("model", {"x": 1})
        assert (again.server, again.failed_attempts) == ("gpu2", ())  # gpu1 is set aside
        assert (await m.log.verify()).sound


async def test_a_run_outlives_an_edit_of_its_server_and_its_worker_does_not(server: sshd.Sshd, tmp_path: Path) -> None:
    source = """
        import os, time

        def load():
            def handle(inputs):
                if "marker" in inputs:
                    print("running", flush=True)
                    while not os.path.exists(inputs["marker"]):
                        time.sleep(0.05)
                return {"pid": os.getpid()}
            return handle
    """
    running_there, marker = asyncio.Event(), tmp_path / "go on"
    async with driver(server, tmp_path) as m:
        await register(m, tmp_path, source)
        await far(m, server, "gpu1")
        await place(m, "gpu1")
        first = asyncio.ensure_future(m.run("model", {"marker": str(marker)}, on_log=lambda *_: running_there.set()))
        async with asyncio.timeout(60):
            await running_there.wait()
        parameters = {"address": sshd.HOST, "port": server.port, "user": server.user, "python": sys.executable}
        edited = await m.servers.edit(ADA, "gpu1", parameters=parameters)
        m._ping._hosts.of(edited)._shared_cache = True  # type: ignore[attr-defined]
        second = (await m.run("model", {})).outputs["pid"]
        marker.touch()
        old = (await first).outputs["pid"]
        assert old != second
        await until(lambda: not alive(old))
        assert (await m.run("model", {})).outputs["pid"] == second


async def test_this_machine_takes_over_from_a_far_one(server: sshd.Sshd, closed: int, tmp_path: Path) -> None:
    async with driver(server, tmp_path) as m:
        await register(m, tmp_path, ECHO)
        await far(m, server, "gpu1", port=closed)
        await place(m, "gpu1", "local")
        await busy(m, "local")
        stream = m.stream("model", {"x": 1})
        assert [part async for part in stream] == [{"x": 1}]
        assert stream.result is not None
        assert (stream.result.server, len(stream.result.failed_attempts)) == ("local", 1)
        assert "host_key" not in (await bodies(m, "finished"))[-1]


async def test_one_whose_disk_takes_nothing_sends_the_invocation_on(tmp_path: Path) -> None:
    if not sshd.available():
        pytest.skip("no sshd here")
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    with sshd.running(tmp_path / "sshd", environment=cache) as server:
        async with driver(server, tmp_path) as m:
            await register(m, tmp_path, ECHO)
            await far(m, server, "gpu1")
            await place(m, "gpu1", "local")
            (tmp_path / "cache" / "mer-worker").mkdir(mode=0o700, parents=True)
            (tmp_path / "cache" / "mer-worker" / "incoming").write_text("")  # root too can put nothing into a file
            await busy(m, "local")
            result = await m.run("model", {"x": 1})
            assert (result.server, [each.code for each in result.failed_attempts]) == ("local", ["content-unwritable"])


@pytest.mark.parametrize("alone", [True, False])
async def test_one_whose_own_configuration_is_wrong_sends_the_invocation_on(
    server: sshd.Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)  # it cannot be imported
    async with listening(ByPassword, server.folder / "host_key") as port:
        config = sshd.operator(server, port=port).config
        async with running(tmp_path, ssh_config=str(config)) as m:
            await register(m, tmp_path, ECHO)
            parameters = {"address": sshd.HOST, "port": port, "password_from": "keyring:gpu1/ada"}
            await m.servers.register(ADA, "gpu1", kind=ServerKind.SSH, parameters=parameters)
            await place(m, "gpu1", *([] if alone else ["local"]))
            if alone:
                with pytest.raises(ConfigurationError, match="no keyring library"):
                    await m.run("model", {"x": 1})
                return
            await busy(m, "local")
            result = await m.run("model", {"x": 1})
            assert result.server == "local"
            assert [(each.server, each.code) for each in result.failed_attempts] == [("gpu1", "configuration-error")]


async def test_a_package_that_no_server_can_load_is_tried_once(server: sshd.Sshd, tmp_path: Path) -> None:
    async with driver(server, tmp_path) as m:
        await register(m, tmp_path, "x = 1")
        await far(m, server, "gpu1")
        await place(m, "gpu1", "local")
        with pytest.raises(PackageInvalid):
            await m.run("model", {"x": 1})
        assert (await bodies(m, "finished"))[-1]["attempts"] == 1


async def test_one_that_has_no_room_for_a_worker_sends_the_invocation_on(tmp_path: Path) -> None:
    if not sshd.available():
        pytest.skip("no sshd here")
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    with sshd.running(tmp_path / "sshd", more="MaxSessions 1", environment=cache) as server:
        async with driver(server, tmp_path) as m:
            for name in ("model", "other"):
                await register(m, tmp_path, ECHO, name=name)
            await far(m, server, "gpu1")
            await place(m, "gpu1", model="other")
            await place(m, "gpu1", "local")
            await m.run("other", {"x": 1})  # its worker has the one session that there is
            await busy(m, "local")
            result = await m.run("model", {"x": 1})
            assert (result.server, [each.server for each in result.failed_attempts]) == ("local", ["gpu1"])
            [attempt] = (await bodies(m, "finished"))[-1]["failed_attempts"]
            assert (attempt["server"], attempt["code"]) == ("gpu1", "busy")
            await busy(m, "local")
            assert (await m.run("model", {"x": 1})).failed_attempts == ()  # it is set aside for a while
            with pytest.raises(Busy, match="gpu1 opens no session beside the 1 that it has"):
                await m.run("model", {"x": 1}, on="gpu1")  # where nobody else may run it, it is busy


async def test_one_that_is_asked_for_by_name_is_the_only_one_tried(
    server: sshd.Sshd, closed: int, tmp_path: Path
) -> None:
    async with driver(server, tmp_path) as m:
        await register(m, tmp_path, ECHO)
        await far(m, server, "gpu1", port=closed)
        await place(m, "gpu1", "local")
        with pytest.raises(ServerUnreachable, match="gpu1, connect"):
            await m.run("model", {"x": 1}, on="gpu1")
        finished = (await bodies(m, "finished"))[-1]
        assert (finished["outcome"], finished["attempts"], finished["reason"]["code"]) == (
            "failed",
            1,
            "server-unreachable",
        )


async def test_all_that_are_set_aside_are_tried_all_the_same(server: sshd.Sshd, closed: int, tmp_path: Path) -> None:
    async with driver(server, tmp_path) as m:
        await register(m, tmp_path, ECHO)
        for name in ("gpu1", "gpu2"):
            await far(m, server, name, port=closed)
        await place(m, "gpu1", "gpu2")
        for _ in range(2):
            with pytest.raises(ServerUnreachable):
                await m.run("model", {"x": 1})
        assert [body["attempts"] for body in await bodies(m, "finished")] == [2, 2]
        # what an operator has mended is not waited for
        await m.servers.edit(ADA, "gpu2", parameters={"address": sshd.HOST, "port": server.port, "user": server.user})
        m._ping._hosts.of(await m._store.servers.get("gpu2"))._shared_cache = True  # type: ignore[attr-defined]
        m._executor._resolver.forget()
        result = await m.run("model", {"x": 1})
        assert (result.server, result.failed_attempts) == ("gpu2", ())


async def test_one_that_is_silent_for_longer_than_a_call_waits_is_passed_over_next_time(
    server: sshd.Sshd, tmp_path: Path
) -> None:
    with socket.socket() as silent:
        silent.bind((sshd.HOST, 0))
        silent.listen()  # it takes connections, and says nothing
        async with driver(server, tmp_path) as m:
            await register(m, tmp_path, ECHO)
            await far(m, server, "gpu1", port=silent.getsockname()[1])
            await place(m, "gpu1", "local")
            await busy(m, "local")
            with pytest.raises(DeadlineExceeded, match="before a worker was ready"):
                await m.run("model", {"x": 1}, timeout=0.5)
            result = await m.run("model", {"x": 1})
            assert (result.server, result.failed_attempts) == ("local", ())


async def test_those_who_wait_for_one_that_cannot_be_reached_are_told_with_the_first(
    server: sshd.Sshd, closed: int, tmp_path: Path
) -> None:
    async with driver(server, tmp_path) as m:
        await register(m, tmp_path, ECHO)
        await far(m, server, "gpu1", port=closed)
        await place(m, "gpu1")
        ends = await asyncio.gather(*(m.run("model", {"x": 1}) for _ in range(20)), return_exceptions=True)
        assert {type(end) for end in ends} == {ServerUnreachable}
        assert len({id(end) for end in ends}) == 20


async def cut(server: sshd.Sshd) -> None:
    for pid in server.connections():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("retry", [False, True])
async def test_a_connection_that_is_cut_in_the_middle_is_lost_unless_the_model_allows_another_run(
    server: sshd.Sshd, tmp_path: Path, retry: bool
) -> None:
    async with driver(server, tmp_path) as m:
        await register(m, tmp_path, SLOW)
        await far(m, server, "gpu1")
        await place(m, "gpu1", "local")
        await busy(m, "local")
        heard = asyncio.Event()
        inputs = {"marker": str(tmp_path / "marker")}
        run = asyncio.ensure_future(m.run("model", inputs, on_log=lambda *_: heard.set(), retry=retry))
        async with asyncio.timeout(30):
            await heard.wait()
            await until(lambda: (tmp_path / "marker").exists())
        await cut(server)
        async with asyncio.timeout(30):
            if retry:
                result = await run
                assert (result.server, [each.code for each in result.failed_attempts]) == ("local", ["worker-lost"])
            else:
                with pytest.raises(WorkerLost, match="the worker on gpu1 cannot be reached any more") as caught:
                    await run
                assert caught.value.exit_code == 125
                assert "run --retry" in (caught.value.hint or "")
        finished = (await bodies(m, "finished"))[-1]
        expected = ("succeeded", 2, "local") if retry else ("lost", 1, "gpu1")
        assert (finished["outcome"], finished["attempts"], finished["server"]) == expected
        assert (await m.log.verify()).sound


async def test_what_was_sealed_is_not_run_again(server: sshd.Sshd, tmp_path: Path) -> None:
    async with driver(server, tmp_path) as m:
        await register(m, tmp_path, ECHO)
        sealed = await m.seal("model", {"x": 1})
        with pytest.raises(UsageError, match="cannot be run again"):
            await m.run(sealed, retry=True)
        await m.release(sealed)


async def test_the_key_of_a_machine_stands_in_both_records_of_a_warm_run(server: sshd.Sshd, tmp_path: Path) -> None:
    async with driver(server, tmp_path) as m:
        await register(m, tmp_path, ECHO)
        await far(m, server, "gpu1")
        await place(m, "gpu1")
        for _ in range(2):
            await m.run("model", {"x": 1})
        started, finished = await bodies(m, "started"), await bodies(m, "finished")
        assert "host_key" not in started[0]
        assert started[1]["host_key"] == finished[0]["host_key"] == finished[1]["host_key"]


async def test_nine_models_share_the_eight_channels_of_one_server(server: sshd.Sshd, tmp_path: Path) -> None:
    async with driver(server, tmp_path, max_workers=20) as m:
        await far(m, server, "gpu1")
        for number in range(9):
            await register(m, tmp_path, ECHO, name=f"m{number}")
            await place(m, "gpu1", model=f"m{number}")
        async with asyncio.timeout(60):
            await asyncio.gather(*(m.run(f"m{number}", {"x": number}) for number in range(9)))
            result = await m.run("m0", {"x": 0})
        assert result.server == "gpu1"
        assert m._executor._pool.workers <= 8


async def test_the_console_says_who_could_not_run_it(server: sshd.Sshd, closed: int, tmp_path: Path) -> None:
    async with driver(server, tmp_path) as m:
        await register(m, tmp_path, ECHO)
        await far(m, server, "gpu1", port=closed)
        await place(m, "gpu1", "local")
        await busy(m, "local")
        terminal = Terminal(m, {**environ_of(tmp_path), "NO_COLOR": "1"}, terminal=False)
        typed = await terminal.type("run model -i x=1 --retry --json")
        assert (typed.code, json.loads(typed.out)["server"], json.loads(typed.out)["attempts"]) == (0, "local", 2)
        assert "gpu1 cannot be reached" in typed.err
        assert "ran on local" in typed.err
        typed = await terminal.type("run model -i x=1 --retry --input-parts -")
        assert typed.code == 2
