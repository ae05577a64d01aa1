"""What somebody has given up waiting for leaves nothing there and nothing here: an opening channel, a ProxyCommand."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mer.core.errors import Busy, ConfigurationError
from mer.meal.ssh import knock
from mer.meal.ssh.connection import MAX_CHANNELS, Connection
from mer.meal.ssh.host import SshHost
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
    for _ in range(MAX_CHANNELS):
        await connection.channel("exec cat")
    await until(lambda: not running(marker), seconds=20)
    assert connection.made == 1


async def test_a_session_that_sshd_still_counts_is_waited_for(tmp_path: Path) -> None:
    if not sshd.available():
        pytest.skip("no sshd here")
    with sshd.running(tmp_path / "sshd", more="MaxSessions 1") as server:
        made = sshd.connection(server)
        try:
            session = await made.channel("echo begun; cat; exec sleep 1")
            await session.arrived.wait()
            assert session.channel is not None
            session.channel.abort()
            await session.ended.wait()
            await made.channel("exec cat")
        finally:
            await made.aclose()


async def test_a_command_of_the_ssh_config_that_never_ends_is_not_waited_for(
    server: sshd.Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(knock.SECONDS, knock.Step.RESOLVE, 0.5)
    os.mkfifo(tmp_path / "never")
    operator = sshd.operator(server, more=f'Match exec "cat {tmp_path}/never"\nMatch all')
    host = SshHost("far", Connection(sshd.target_of(server, operator=operator)))
    for asked in (host.probe, host.address, host.shown_key):
        with pytest.raises(ConfigurationError, match="far, resolve: the ssh_config was not read within 0"):
            await asked()
        (tmp_path / "never").open("w").close()  # for the test only: it ends


def test_a_keyring_whose_owner_is_away_keeps_no_process_from_ending() -> None:
    source = """
import asyncio, sys, threading, types
sys.modules["keyring"] = types.SimpleNamespace(get_password=lambda *_: threading.Event().wait())
from mer.core.errors import AuthenticationFailed
from mer.meal import secrets
secrets.KEYRING_SECONDS = 0.2
try:
    asyncio.run(secrets.Secrets({}).password("keyring:mer/ada"))
except AuthenticationFailed as error:
    print(error.message)
"""
    told = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert told.stdout == "the keyring did not answer within 0.2 s\n"
