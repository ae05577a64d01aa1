"""However a far worker, its connection or its driver ends: every call ends, and nothing stays on the far side."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from mer.core.errors import Busy, MerError, ServerUnreachable, WorkerLost
from mer.meal.session import Session
from mer.meal.ssh.host import SshHost
from mer.meal.starting import start, start_once
from tests.support import compiled, sshd
from tests.support.documents import ROOT
from tests.support.dropping import dropping
from tests.support.far import ECHO, plan
from tests.support.workers import alive, until

BUSY = """
    import subprocess, sys, time

    def load():
        return handle

    def handle(inputs, context):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        print(child.pid, flush=True)
        time.sleep(600)
        return inputs
"""

STUCK = """
    import ctypes

    def load():
        return lambda inputs: ctypes.PyDLL(None).sleep(600)  # with Python's lock held: no thread of the worker runs
"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[sshd.Sshd]:
    """A server of its own, since it is hurt."""
    if not sshd.available():
        pytest.skip("no sshd here")
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    compiled.put_into(cache / "mer-worker")
    with sshd.running(tmp_path / "sshd", environment={"XDG_CACHE_HOME": str(cache)}) as running:
        yield running


@pytest.fixture
async def host(server: sshd.Sshd) -> AsyncIterator[SshHost]:
    made = sshd.host(server, keepalive_seconds=0.5)
    yield made
    await made.aclose()


def scratch(tmp_path: Path) -> list[str]:
    """Return the scratch folders of the far side."""
    folder = tmp_path / "cache" / "mer-worker" / "scratch"
    return sorted(os.listdir(folder)) if folder.exists() else []


class Working:
    """A call that computes for ever, in a worker with a child in a session of its own."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.worker = int(session.hello["pid"])
        self.child = 0
        self.call = asyncio.ensure_future(session.infer_values({"x": np.zeros(1)}, on_log=self._log))

    @classmethod
    async def begin(cls, host: SshHost, folder: Path) -> Working:
        working = cls(await start(host, plan(folder, BUSY)))
        await until(lambda: working.child > 0)
        return working

    def _log(self, stream: str, level: str, text: bytes) -> None:
        self.child = int(text)

    async def gone(self) -> None:
        """See that neither is there any more."""
        await until(lambda: not alive(self.worker), seconds=30)
        await until(lambda: not alive(self.child), seconds=30)


async def test_a_worker_that_is_closed_leaves_nothing(host: SshHost, tmp_path: Path) -> None:
    session = await start(host, plan(tmp_path, ECHO))
    assert len(scratch(tmp_path)) == 1
    assert await session.close() == 0
    assert scratch(tmp_path) == []


async def test_a_cut_connection_ends_calls_at_once_and_the_worker_too(
    server: sshd.Sshd, host: SshHost, tmp_path: Path
) -> None:
    working = await Working.begin(host, tmp_path)
    for pid in server.connections():
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match="cannot be reached any more"):
        async with asyncio.timeout(5):
            await working.call
    await working.gone()
    await working.session.close()
    again = await start(host, plan(tmp_path, ECHO))  # a new connection
    assert host._connection.made == 2
    await again.close()
    await until(lambda: scratch(tmp_path) == [])


async def test_a_silent_network_ends_both_sides_within_the_bound(
    server: sshd.Sshd, host: SshHost, tmp_path: Path
) -> None:
    working = await Working.begin(host, tmp_path)
    connections = server.connections()
    for pid in connections:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(WorkerLost):
            async with asyncio.timeout(20):
                await working.call
        await working.gone()  # while nothing of the connection moves: it has heard nothing for too long
        await working.session.close(grace=0.0)
    finally:
        for pid in connections:
            os.kill(pid, signal.SIGCONT)


async def test_a_killed_worker_is_swept_up_after(host: SshHost, tmp_path: Path) -> None:
    working = await Working.begin(host, tmp_path)
    os.kill(working.worker, signal.SIGKILL)
    with pytest.raises(WorkerLost, match="SIGKILL"):
        async with asyncio.timeout(10):
            await working.call
    await working.session.close()
    await working.gone()
    assert scratch(tmp_path) == []


async def test_a_worker_that_no_thread_of_it_can_end_is_killed(host: SshHost, tmp_path: Path) -> None:
    session = await start(host, plan(tmp_path, STUCK))
    pid = int(session.hello["pid"])
    call = asyncio.ensure_future(session.infer_values({"x": np.zeros(1)}))
    await asyncio.sleep(0.5)
    call.cancel()
    await until(lambda: not alive(pid), seconds=20)
    await session.close()


async def test_a_killed_driver_leaves_nothing(server: sshd.Sshd, tmp_path: Path) -> None:
    driver = """
import asyncio, sys
from pathlib import Path
from tests.ssh.test_ends import Working
from tests.support import sshd
async def main():
    server = sshd.Sshd(Path(sys.argv[1]), port=int(sys.argv[2]))
    working = await Working.begin(sshd.host(server), Path(sys.argv[3]))
    print(working.worker, working.child, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", driver, str(server.folder), str(server.port), str(tmp_path),
        cwd=ROOT, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    worker, child = map(int, (await process.stdout.readline()).split())
    process.kill()
    await until(lambda: not alive(worker) and not alive(child), seconds=20)
    assert scratch(tmp_path) == []
    await process.wait()


async def test_a_flood_on_standard_error_blocks_no_answer(host: SshHost, tmp_path: Path) -> None:
    source = """
        import os

        def load():
            def handle(inputs):
                for _ in range(1024):
                    os.write(2, b"e" * 65536)
                return inputs
            return handle
    """
    session = await start(host, plan(tmp_path, source))
    async with asyncio.timeout(60):
        assert (await session.infer_values({"x": np.arange(2)}))["x"].tolist() == [0, 1]
    await session.close()


async def test_a_server_at_its_limit_of_sessions_is_busy(tmp_path: Path) -> None:
    if not sshd.available():
        pytest.skip("no sshd here")
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    compiled.put_into(cache / "mer-worker")
    with sshd.running(tmp_path / "sshd", environment={"XDG_CACHE_HOME": str(cache)}, more="MaxSessions 2") as server:
        host = sshd.host(server)
        sessions = [await start(host, plan(tmp_path, ECHO)) for _ in range(2)]
        with pytest.raises(Busy, match="opens no session beside the 2"):
            await start(host, plan(tmp_path, ECHO))
        for session in sessions:
            await session.close()
        await (await start(host, plan(tmp_path, ECHO))).close()
        await host.aclose()


async def test_more_than_eight_workers_wait_for_a_channel(host: SshHost, tmp_path: Path) -> None:
    sessions = await asyncio.gather(*(start(host, plan(tmp_path, ECHO)) for _ in range(8)))
    ninth = asyncio.ensure_future(start(host, plan(tmp_path, ECHO)))
    await asyncio.sleep(0.3)
    assert not ninth.done()
    await sessions.pop().close()
    sessions.append(await ninth)
    await asyncio.gather(*(session.close() for session in sessions))


async def test_a_door_with_too_many_before_it_is_tried_again(tmp_path: Path) -> None:
    if not sshd.available():
        pytest.skip("no sshd here")
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    compiled.put_into(cache / "mer-worker")
    more = "MaxStartups 2:100:2"
    with sshd.running(tmp_path / "sshd", environment={"XDG_CACHE_HOME": str(cache)}, more=more) as server:
        hosts = [sshd.host(server) for _ in range(5)]
        probes = await asyncio.gather(*(host.probe() for host in hosts))
        assert len({probe.python for probe in probes}) == 1
        await asyncio.gather(*(host.aclose() for host in hosts))


@pytest.mark.parametrize("most", [0, 10, 500, 2000, 3500, 5000, 7000, 9000, 12_000, 30_000, 70_000])
async def test_a_connection_that_is_cut_anywhere_on_the_way_is_told(
    server: sshd.Sshd, tmp_path: Path, most: int
) -> None:
    async with dropping(server.port, most) as port:
        host = sshd.host(server, port=port, operator=sshd.operator(server, port=port))
        began = time.monotonic()

        async def talk() -> None:
            """Talk until the connection is cut: a session that fits is begun again."""
            for _ in range(20):
                deadline = asyncio.get_running_loop().time() + 20
                session = await start_once(host, plan(tmp_path, ECHO), deadline=deadline)
                await session.infer_values({"x": np.zeros(1000)})
                await session.close(grace=0.0)

        with pytest.raises(MerError) as caught:
            await talk()
        assert isinstance(caught.value, ServerUnreachable | WorkerLost), caught.value
        assert time.monotonic() - began < 25
        await host.aclose()
    await until(lambda: scratch(tmp_path) == [], seconds=20)
