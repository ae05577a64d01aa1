"""A ProxyCommand: a program of the operator's own ssh_config that carries the bytes, run as ssh runs it.

asyncssh would split it without a shell, and take what it writes to its standard error for the server's words.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket

from mer.core.errors import ServerUnreachable

SHELL = "/bin/sh"

MAX_SAID = 2000
"""Bytes of its last words that an error tells."""

GRACE_SECONDS = 2.0
"""From the signal that ends it to the one that it cannot refuse."""


class Proxy:
    """One such program, in a session of its own: it asks nobody anything."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._said = b""
        self._reading = asyncio.create_task(self._read(), name="reading what a ProxyCommand says")
        self._ending: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, command: str) -> tuple[Proxy, socket.socket]:
        """Start it, and return the socket that it reads and writes.

        Raises:
            ServerUnreachable
        """
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            try:
                process = await asyncio.create_subprocess_exec(
                    SHELL,
                    "-c",
                    f"exec {command}",
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=asyncio.subprocess.PIPE,
                    start_new_session=True,
                )
            except BaseException as error:
                ours.close()
                if isinstance(error, OSError):
                    raise ServerUnreachable(f"the ProxyCommand cannot be started: {error}") from error
                raise
        return cls(process), ours

    @property
    def words(self) -> str:
        """How it ended, if it did, and the last that it said."""
        said = " ".join(self._said.decode("utf-8", "replace").split())
        status = self._process.returncode
        ended = "" if status is None else f"the ProxyCommand ended with status {status}"
        return ": ".join(part for part in (ended, said) if part)

    async def gone(self, seconds: float) -> bool:
        """Tell whether it has ended, or does within some seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._process.wait()
                await asyncio.shield(self._reading)
        except TimeoutError:
            return self._process.returncode is not None
        return True

    def end(self) -> None:
        """End it and what it started."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._ended(), name="ending a ProxyCommand")

    async def ended(self) -> None:
        """Wait until it has ended."""
        self.end()
        assert self._ending is not None
        await asyncio.shield(self._ending)

    async def _ended(self) -> None:
        try:
            self._signal(signal.SIGTERM)
            async with asyncio.timeout(GRACE_SECONDS):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            self._signal(signal.SIGKILL)  # whatever of its group is left
            self._reading.cancel()
        await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def _read(self) -> None:
        assert self._process.stderr is not None
        while piece := await self._process.stderr.read(4096):
            self._said = (self._said + piece)[-MAX_SAID:]
