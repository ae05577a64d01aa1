"""A far host that says what a test has it say: an SSH server of asyncssh's in this process, whose every command is a function."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import asyncssh

from mer.meal.ssh.connection import Connection
from mer.meal.ssh.host import SshHost
from tests.support import sshd

Speaker: TypeAlias = "Callable[[asyncssh.SSHServerProcess[bytes]], Awaitable[Any]]"


@contextlib.asynccontextmanager
async def speaking(server: sshd.Sshd, speak: Speaker) -> AsyncIterator[SshHost]:
    """Give a host with the keys of `server`, at which `speak` is run for each command."""

    async def answered(process: asyncssh.SSHServerProcess[bytes]) -> None:
        with contextlib.suppress(OSError, asyncssh.Error):
            await speak(process)

    listening = await asyncssh.listen(
        sshd.HOST,
        0,
        server_host_keys=[server.folder / "host_key"],
        authorized_client_keys=str(server.folder / "authorized_keys"),
        process_factory=answered,
        encoding=None,
        line_editor=False,
    )
    port = listening.get_port()
    operator = sshd.operator(server, port=port)
    host = SshHost("far", Connection(sshd.target_of(server, port=port, operator=operator)))
    try:
        yield host
    finally:
        await host.aclose()
        listening.close()
        await listening.wait_closed()
