"""One SSH connection to a server: made when it is first needed, shared by its workers, made anew when it was lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import asyncssh

from mer.core.errors import Busy, MerError, ServerUnreachable
from mer.core.progress import waits
from mer.meal.hosts import MAX_HANDSHAKES
from mer.meal.ssh.address import Target
from mer.meal.ssh.knock import Step, Told
from mer.meal.ssh.reaching import Dropped, reach
from mer.meal.ssh.stream import WINDOW, ChannelSession

MAX_CHANNELS = 8
"""Of workers at once: a stock sshd allows 10 sessions a connection, and two are left for tasks that end or look at them."""

MAX_TASKS = 2

CLOSE_SECONDS = 20.0
"""What the server gets to agree to the end of a connection."""

CHANNEL_SECONDS = 20.0
"""What the server gets to open a channel, and how long a worker waits for one of ours to be closed: pools start no more than
there may be, and who pushes content takes some for a moment."""

LINGER_SECONDS = 2.0
"""For how long after the end of a channel another one that is refused is tried again: sshd counts a session until what ran
there has ended too."""

LINGER_PAUSE_SECONDS = 0.1

TRIES = 4
"""Of a handshake that is dropped before anybody was asked who he is: that is how a server with too many at its door behaves."""

PAUSE_SECONDS = (0.2, 2.0)
"""Before the second try and at most; doubled each time and spread, so that all who were dropped do not return in step."""


class Connection:
    """The connection to one server."""

    def __init__(
        self, target: Target, handshakes: asyncio.Semaphore | None = None, *, told: Told | None = None
    ) -> None:
        """Connect to `target`, when that is needed; `handshakes` is what all connections of this process share.

        `told` hears of each step on the way in.
        """
        self.target = target
        self._told = told
        self._handshakes = handshakes or asyncio.Semaphore(MAX_HANDSHAKES)
        self.made = 0
        """How often it was made."""
        self.host_key: str | None = None
        """The fingerprint of the key that the server showed when it was last made."""
        self._connected: asyncssh.SSHClientConnection | None = None
        self._connecting = asyncio.Lock()
        self._tried = 0
        """How often it was tried to be made."""
        self._refused: MerError | None = None
        """What the last try ended by, if it failed."""
        self._channels = asyncio.Semaphore(MAX_CHANNELS)
        self._used = 0
        """How many of them are, those that are being opened included."""
        self._unused = asyncio.Event()
        self._unused.set()
        self._tasks = asyncio.Semaphore(MAX_TASKS)
        self._open_channels: set[ChannelSession] = set()
        self._left: set[asyncio.Task[tuple[Any, Any]]] = set()
        """Channels that are being opened, and that nobody waits for any more."""
        self._ended_at = -LINGER_SECONDS
        """When the last channel ended, in loop time."""
        self._closed = False

    @property
    def alive(self) -> bool:
        """Whether it stands now, as far as this side can tell."""
        return self._connected is not None and not self._connected.is_closed()

    def another(self, *, told: Told) -> Connection:
        """Return a further connection to the same server, not made yet."""
        return Connection(self.target, self._handshakes, told=told)

    async def channel(self, line: str) -> ChannelSession:
        """Have the far login shell run a line, for a worker, and return the channel to it.

        Waits for a while where MAX_CHANNELS are open.

        Raises:
            ServerUnreachable: it cannot be connected to, or opens no channel.
            AuthenticationFailed, HostKeyRefused: it does not let us in, or is not the one that we know.
            Busy: it opens no further channel beside those that it has, or MAX_CHANNELS were open all the time.
        """
        try:
            async with asyncio.timeout(CHANNEL_SECONDS):
                await self._channels.acquire()
        except TimeoutError:
            raise Busy(f"{self.target.name} runs {MAX_CHANNELS} workers, and none of them ended") from None
        self._used += 1
        self._unused.clear()
        try:
            session = await self._execute(line)
        except BaseException:
            self._give_back()
            raise
        self._open_channels.add(session)
        session.when_ended(lambda: self._release(session))
        return session

    @contextlib.asynccontextmanager
    async def task(self, line: str) -> AsyncIterator[ChannelSession]:
        """As `channel`, for something short: its channel is closed at the end."""
        async with self._tasks:
            session = await self._execute(line)
            try:
                yield session
            finally:
                assert session.channel is not None
                session.channel.abort()
                self._ended_at = asyncio.get_running_loop().time()

    async def idle(self) -> None:
        """Wait until no worker has a channel of it."""
        await self._unused.wait()

    async def aclose(self) -> None:
        """Close it, and every channel."""
        self._closed = True
        async with self._connecting:
            connected, self._connected = self._connected, None
        if connected is not None:
            connected.close()
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_SECONDS):
                        await connected.wait_closed()
            finally:  # whoever closes it may be cancelled too
                connected.abort()
        for opening in self._left:
            opening.cancel()  # its channel went with the connection
        await asyncio.gather(*self._left, return_exceptions=True)

    async def open(self) -> asyncssh.SSHClientConnection:
        """Return the connection, and make it where there is none; who waits while it is tried shares how that ends.

        Raises: as `channel`.
        """
        tried = self._tried
        async with self._connecting:
            if self._closed:
                raise ServerUnreachable(f"the connection to {self.target.name} was closed")
            if self._connected is None or self._connected.is_closed():
                # else the eighth of eight waits eight times as long
                if self._refused is not None and self._tried != tried:
                    raise self._refused.again()
                try:
                    self._connected = await self._made()
                except MerError as error:
                    self._tried, self._refused = self._tried + 1, error.again()
                    raise
                self._refused = None
                self.made += 1
            return self._connected

    def _release(self, session: ChannelSession) -> None:
        self._open_channels.discard(session)
        self._give_back()
        self._ended_at = asyncio.get_running_loop().time()

    def _give_back(self) -> None:
        self._channels.release()
        self._used -= 1
        if not self._used:
            self._unused.set()

    async def _execute(self, line: str) -> ChannelSession:
        lost, patient = False, self._ended_at + LINGER_SECONDS
        while True:
            connected = await self.open()
            try:
                return await self._opened(connected, line)
            except (OSError, asyncssh.Error, TimeoutError) as error:
                refused = isinstance(error, asyncssh.ChannelOpenError)
                if connected.is_closed() and not lost:
                    lost = True  # before anything was asked of it
                elif refused and not connected.is_closed() and asyncio.get_running_loop().time() < patient:
                    await asyncio.sleep(LINGER_PAUSE_SECONDS)
                elif refused:
                    raise self._no_channel(error) from error
                else:
                    raise ServerUnreachable(f"{self.target.name} opens no channel: {_said(error)}") from error

    async def _opened(self, connected: asyncssh.SSHClientConnection, line: str) -> ChannelSession:
        """Open a channel in a task of its own.

        asyncssh forgets one whose opening is cancelled, and the server does not: it would keep one of its few sessions, and
        what was to run there, for as long as the connection stands.
        """
        opening = asyncio.create_task(
            connected.create_session(
                ChannelSession, line, encoding=None, window=WINDOW, request_pty=False, send_env=None
            ),
            name=f"opening a channel to {self.target.name}",
        )
        try:
            async with asyncio.timeout(CHANNEL_SECONDS):
                _, opened = await asyncio.shield(opening)
        except BaseException:
            self._left.add(opening)
            opening.add_done_callback(self._close_left)
            raise
        assert isinstance(opened, ChannelSession)
        return opened

    def _close_left(self, opening: asyncio.Task[tuple[Any, Any]]) -> None:
        """Close a channel that stands now, and that nobody waits for."""
        self._left.discard(opening)
        self._ended_at = asyncio.get_running_loop().time()
        if not opening.cancelled() and opening.exception() is None:
            opening.result()[0].abort()

    def _no_channel(self, error: Exception) -> MerError:
        name, others = self.target.name, len(self._open_channels)
        if others:
            return Busy(
                f"{name} opens no session beside the {others} that it has: {_said(error)}",
                hint="MaxSessions of its sshd_config says how many it allows.",
            )
        return ServerUnreachable(f"{name} opens no session: {_said(error)}")

    async def _made(self) -> asyncssh.SSHClientConnection:
        pause, longest = PAUSE_SECONDS
        for tries in range(1, TRIES + 1):
            try:
                async with self._handshakes:
                    made = await self._reached()
            except Dropped as error:
                if tries == TRIES:
                    raise ServerUnreachable(
                        f"{error.message}, {TRIES} times",
                        hint="Are too many at its door? MaxStartups of its sshd_config says how many it lets wait.",
                    ) from error
                await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - spreads retries
                pause = min(2 * pause, longest)
            else:
                key = made.get_server_host_key()
                self.host_key = None if key is None else key.get_fingerprint()
                return made
        raise AssertionError

    async def _reached(self) -> asyncssh.SSHClientConnection:
        """Connect once, and let each step be seen while it is waited for."""
        if self._told is not None:
            return await reach(self.target, told=self._told)
        with waits(self.target.name, Step.RESOLVE) as show:

            def told(step: Step, found: str | None) -> None:
                if found is None:
                    show(step)

            return await reach(self.target, told=told, looks_up=False)


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
