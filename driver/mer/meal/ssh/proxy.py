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

PIECE = 4096
"""Bytes of them read at a time."""

GRACE_SECONDS = 2.0
"""From the signal that ends it to the one that it cannot refuse."""


class Proxy:
    """One such program, in a session of its own: it asks nobody anything."""

    def __init__(self, process: asyncio.subprocess.Process, words: int) -> None:
        """Watch a process that was started so, and read what it says from the descriptor `words`.

        A pipe of our own: asyncio counts a process as ended only once all have closed its pipes, and what a ProxyCommand puts
        into the background for others (`ControlPersist`) keeps its standard error for hours.
        """
        self._process = process
        self._said = b""
        self._words = words
        self._loop = asyncio.get_running_loop()
        self._silent = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None
        os.set_blocking(words, False)
        self._loop.add_reader(words, self._read)

    @classmethod
    async def start(cls, command: str) -> tuple[Proxy, socket.socket]:
        """Start it, and return the socket that it reads and writes.

        Raises:
            ServerUnreachable
        """
        ours, theirs = socket.socketpair()
        words, saying = os.pipe()
        with theirs, os.fdopen(saying, "wb"):
            ours.setblocking(False)
            try:
                process = await asyncio.create_subprocess_exec(
                    SHELL,
                    "-c",
                    f"exec {command}",
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=saying,
                    start_new_session=True,
                )
            except BaseException as error:
                ours.close()
                os.close(words)
                if isinstance(error, OSError):
                    raise ServerUnreachable(f"the ProxyCommand cannot be started: {error}") from error
                raise
        return cls(process, words), ours

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
                await self._silent.wait()
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
            self._hush()
        await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _read(self) -> None:
        try:
            piece = os.read(self._words, PIECE)
        except BlockingIOError:
            return
        self._said = (self._said + piece)[-MAX_SAID:]
        if not piece:
            self._hush()

    def _hush(self) -> None:
        """Hear no more of it."""
        if not self._silent.is_set():
            self._silent.set()
            self._loop.remove_reader(self._words)
            os.close(self._words)
