"""What every kind of host does for a session: one suite over all kinds, local and over a real sshd.

Where there is no sshd, asyncssh's own server stands in.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mer.core.errors import ServerUnreachable
from mer.meal.host import Host, Launch
from tests.support import sshd
from tests.support.workers import local_host, until


@pytest.fixture(params=["local", "ssh"])
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Host]:
    if request.param == "local":
        made: Host = local_host(tmp_path)
    else:
        made = sshd.host(sshd.of_process_or_stand_in())
    yield made
    await made.aclose()


class Taker:
    """A receiver that keeps what comes."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.logged = bytearray()
        self.reason: str | None = None
        self._room = memoryview(bytearray(70_000))

    def get_buffer(self) -> memoryview:
        return self._room

    def buffer_updated(self, count: int) -> None:
        self.got += self._room[:count]

    def log(self, text: bytes) -> None:
        self.logged += text

    def ended(self, reason: str) -> None:
        assert self.reason is None, "told twice"
        self.reason = reason


async def program(host: Host, source: str) -> Launch:
    """Return a launch of a Python program instead of a worker, where workers are started."""
    launch = await host.prepare()
    return Launch(
        argv=((await host.probe()).python, "-c", source),
        environment=launch.environment,
        directory=launch.directory,
        marker=launch.marker,
    )


CAT = """
import os
while got := os.read(0, 1 << 16):
    while got:
        got = got[os.write(1, got):]
"""


async def test_a_probe_names_the_interpreter(host):
    probe = await host.probe()
    assert Path(probe.python).is_absolute()
    assert probe.version.startswith("3.")


async def test_what_is_written_in_pieces_arrives_whole_and_in_order(host):
    stream = await host.open(await program(host, CAT))
    taker = Taker()
    stream.start(taker)
    pieces = [bytes([i % 251]) * (i * 37 % 9000) for i in range(3000)]  # 13 MB: more than any pipe holds
    for piece in range(0, len(pieces), 50):
        if not stream.write(*pieces[piece : piece + 50]):
            await stream.drain()
    await until(lambda: len(taker.got) == sum(map(len, pieces)), seconds=30)
    assert bytes(taker.got) == b"".join(pieces)
    assert await stream.close(grace=5.0) == 0
    assert taker.reason == "ended with status 0"


async def test_a_writer_is_told_when_nobody_reads(host):
    stream = await host.open(await program(host, "import time; time.sleep(60)"))
    stream.start(Taker())
    assert not stream.write(bytes(8 << 20))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await stream.drain()
    await stream.close(grace=0.0)
    await stream.drain()  # a stream that ended keeps nobody


async def test_more_than_a_thousand_pieces_go_in_one_write(host):
    stream = await host.open(await program(host, CAT))
    taker = Taker()
    stream.start(taker)
    stream.write(*(b"%d," % i for i in range(5000)))
    await until(lambda: taker.got.endswith(b"4999,"))
    assert bytes(taker.got) == b"".join(b"%d," % i for i in range(5000))
    await stream.close(grace=1.0)


async def test_standard_error_is_log_and_does_not_block_the_output(host):
    stream = await host.open(
        await program(host, "import sys; sys.stderr.write('e' * (1 << 20)); sys.stdout.write('out')")
    )
    taker = Taker()
    stream.start(taker)
    await until(lambda: taker.reason is not None)
    assert (bytes(taker.got), len(taker.logged)) == (b"out", 1 << 20)
    await stream.close(grace=1.0)


async def test_what_was_written_before_the_end_comes_before_the_end(host):
    stream = await host.open(await program(host, "import os; os.write(1, b'x' * 60000); os._exit(7)"))
    taker = Taker()
    stream.start(taker)
    await until(lambda: taker.reason is not None)
    assert len(taker.got) == 60_000
    assert taker.reason == "ended with status 7"
    assert await stream.close(grace=1.0) == 7


async def test_one_that_ignores_its_end_and_sigterm_is_killed(host):
    stubborn = "import signal,time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    stream = await host.open(await program(host, stubborn))
    taker = Taker()
    stream.start(taker)
    await until(lambda: bool(taker.got))
    assert await stream.close(grace=0.1) == -9
    assert taker.reason == "was killed by SIGKILL"


async def test_close_may_be_called_twice_and_writes_after_it_are_dropped(host):
    stream = await host.open(await program(host, CAT))
    stream.start(Taker())
    assert await stream.close(grace=5.0) == await stream.close(grace=5.0)
    assert stream.write(b"late")


async def test_nothing_of_the_callers_environment_is_inherited_unasked(host, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/agent")
    monkeypatch.setenv("DB_CONNECTION_URL", "postgresql://secret")
    stream = await host.open(await program(host, "import os; print(dict(os.environ))"))
    taker = Taker()
    stream.start(taker)
    await until(lambda: taker.reason is not None)
    assert b"ecret" not in taker.got
    assert b"SSH_AUTH_SOCK" not in taker.got
    assert b"MER_WORKER" in taker.got
    await stream.close(grace=1.0)


async def test_the_scratch_folder_is_the_workers_own_and_goes_with_it(host):
    launch = await program(host, "import os; open('x','w'); print(os.getcwd(), os.environ['TMPDIR'])")
    stream = await host.open(launch)
    taker = Taker()
    stream.start(taker)
    await until(lambda: taker.reason is not None)
    where, temporary = taker.got.decode().split()
    assert where == temporary
    assert str(launch.directory) in where  # on a far host it is relative to the cache, and tells the machine
    await stream.close(grace=1.0)
    assert not os.path.exists(where)  # noqa: ASYNC240 - a test


async def test_a_program_that_is_not_there_is_said(host):
    launch = await host.prepare()
    with pytest.raises(ServerUnreachable, match="no-such-program"):
        await host.open(
            Launch(
                argv=("/no-such-program",),
                environment={},
                directory=launch.directory,
                marker=launch.marker,
                control=launch.control,
            )
        )
    await host.kill(launch)
