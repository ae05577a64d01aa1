"""One SSH connection to a server: made when it is first needed, shared by its workers, made anew when it was lost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import asyncssh

from mer.core.errors import AuthenticationFailed, ServerUnreachable
from mer.meal.ssh.stream import WINDOW, ChannelSession

CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes256-ctr",
)
"""The fastest first: half as much again as asyncssh's own first choice."""

MAX_CHANNELS = 8
"""At once: a stock sshd allows 10 sessions a connection, and two are left for what ends workers."""

KEEPALIVE_SECONDS = 15.0
KEEPALIVE_COUNT = 3
"""A connection that has not answered so many times in a row is lost: after 45 to 60 seconds of silence."""

CONNECT_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """Whom to connect to, and how."""

    name: str
    address: str
    user: str | None = None
    port: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    """Further options of asyncssh.connect."""


class Connection:
    """The connection to one server."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._connected: asyncssh.SSHClientConnection | None = None
        self._connecting = asyncio.Lock()
        self._channels = asyncio.Semaphore(MAX_CHANNELS)

    async def execute(self, line: str) -> ChannelSession:
        """Have the far login shell run a line, and return the channel to it.

        Raises:
            ServerUnreachable, AuthenticationFailed.
        """
        connection = await self._open()
        try:
            _, opened = await connection.create_session(
                ChannelSession, line, encoding=None, window=WINDOW, request_pty=False
            )
        except (asyncssh.ChannelOpenError, OSError) as error:
            raise ServerUnreachable(f"{self.target.name} opens no channel: {error}") from error
        assert isinstance(opened, ChannelSession)
        return opened

    async def forget(self, marker: str) -> None:
        """End what carries the mark."""

    async def aclose(self) -> None:
        """Close it."""
        if self._connected is not None:
            self._connected.close()
            await self._connected.wait_closed()
            self._connected = None

    async def _open(self) -> asyncssh.SSHClientConnection:
        async with self._connecting:
            if self._connected is not None and not self._connected.is_closed():
                return self._connected
            target = self.target
            given: dict[str, Any] = {"username": target.user, "port": target.port}
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    self._connected = await asyncssh.connect(
                        target.address,
                        encryption_algs=list(CIPHERS),
                        compression_algs=None,
                        keepalive_interval=KEEPALIVE_SECONDS,
                        keepalive_count_max=KEEPALIVE_COUNT,
                        **{name: value for name, value in given.items() if value is not None},
                        **target.options,
                    )
            except asyncssh.PermissionDenied as error:
                raise AuthenticationFailed(f"{target.name} does not let us in: {error.reason}") from error
            except (OSError, asyncssh.Error, TimeoutError) as error:
                raise ServerUnreachable(f"{target.name} cannot be reached: {error}") from error
            return self._connected
