"""What somebody has given up waiting for leaves nothing there and nothing here: an opening channel, a ProxyCommand."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import uuid
from collections.abc import AsyncIterator

import pytest

from mer.core.errors import Busy
from mer.meal.ssh.connection import MAX_CHANNELS, Connection
from tests.support import sshd
from tests.support.workers import until


@pytest.fixture
def server() -> sshd.Sshd:
    return sshd.of_process()


@pytest.fixture
async def connection(server: sshd.Sshd) -> AsyncIterator[Connection]:
    made = sshd.connection(server)
    try:
        yield made
    finally:
        await made.aclose()


def running(marker: str) -> bool:
    return bool(subprocess.run(["pgrep", "-f", marker], capture_output=True).stdout)


async def test_channels_whose_opening_was_cancelled_are_closed_as_soon_as_they_stand(connection: Connection) -> None:
    marker = f"until-its-input-ends-{uuid.uuid4().hex}"
    await connection.open()
    for steps in [1, 2, 3] * 4:  # more than the server allows at once, cancelled at several moments of an opening
        opening = asyncio.ensure_future(connection.channel(f"exec sh -c cat {marker}"))
        for _ in range(steps):
            await asyncio.sleep(0.0004)
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError, Busy):
            session = await opening
            assert session.channel is not None
            session.channel.abort()
    async with asyncio.timeout(20):
        held = 0
        while held < MAX_CHANNELS:
            try:
                await connection.channel("exec cat")
                held += 1
            except Busy:  # those before it are about to be closed
                await asyncio.sleep(0.1)
    await until(lambda: not running(marker), seconds=20)
    assert connection.made == 1
