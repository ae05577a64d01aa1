"""A stream over one SSH channel: the worker's stdin, stdout and stderr."""

from __future__ import annotations

import asyncio
import collections
import functools
import signal as signals
from collections.abc import Callable, Coroutine

import asyncssh

from mer.meal.drained import Drained
from mer.meal.ends import describe
from mer.meal.memory import WorkerMemory
from mer.meal.stream import Bytes, BytesReceiver, Receiver, Stream, pour
from mer_worker.wire import Kind, pack

WINDOW = 32 << 20
"""Bytes that may be on their way here: at 50 ms of delay a window of 2 MiB holds a channel to 20 MiB/s, this one to 270."""

HIGH_WATER = 1 << 20
"""Bytes kept by a stream beyond which the next writer waits, as for pipes."""

PIECE = 64 << 10
"""Bytes handed to the channel at a time: it copies what it is given, and cuts packets of 32 KiB from the copy."""

CHANNEL_HIGH = 256 << 10
"""Bytes that the channel may keep beyond the other side's window."""

LEAST_GRACE = 0.5
"""Seconds that the end of its input gets to end a worker: to kill it takes a channel of its own, which takes as long."""

LAST_SECONDS = 0.5
"""What the last of a worker's output may take after its exit; then what it has left, which may hold its output, is swept."""

CLOSING_SECONDS = 5.0
"""What the end of a channel may take: the other side has to agree to it, and it may be gone."""


class ChannelSession(asyncssh.SSHClientSession[bytes]):
    """What asyncssh tells of a channel, kept until somebody receives it."""

    def __init__(self) -> None:
        self.channel: asyncssh.SSHClientChannel[bytes] | None = None
        self.status: int | None = None
        self.ended = asyncio.Event()
        """The channel is closed, or the connection is gone."""
        self.error: Exception | None = None
        """What the connection was lost by."""
        self.take: Callable[[bytes], None] = self._keep
        self.take_log: Callable[[bytes], None] = self._keep_log
        self.exited: Callable[[], None] = lambda: None
        self.closed: Callable[[], None] = lambda: None
        self._on_end: list[Callable[[], None]] = []
        self.resumed: Callable[[], None] = lambda: None
        self.paused = False
        self.kept: list[bytes] = []
        self.kept_log: list[bytes] = []
        self.arrived = asyncio.Event()

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self.channel = chan
        chan.set_write_buffer_limits(high=CHANNEL_HIGH, low=CHANNEL_HIGH // 4)

    def when_ended(self, tell: Callable[[], None]) -> None:
        """Call `tell` once the channel is closed; at once if it is."""
        if self.ended.is_set():
            tell()
        else:
            self._on_end.append(tell)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype is None:
            self.take(data)
        else:
            self.take_log(data)

    def eof_received(self) -> bool:
        return True  # what is being written is still of use

    def exit_status_received(self, status: int) -> None:
        self.status = status
        self.exited()

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:  # noqa: ARG002 - theirs
        number = getattr(signals, f"SIG{signal}", None)
        self.status = -int(number) if number else None
        self.exited()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self.ended.set()
        self.arrived.set()
        for tell in self._on_end:
            tell()
        self._on_end.clear()
        self.closed()

    def taken(self) -> bytes:
        """Return what has come and was not taken yet."""
        taken = b"".join(self.kept)
        self.kept.clear()
        return taken

    @property
    def logged(self) -> int:
        """How many bytes of log are kept."""
        return sum(map(len, self.kept_log))

    def _keep(self, data: bytes) -> None:
        self.kept.append(data)
        self.arrived.set()

    def _keep_log(self, data: bytes) -> None:
        self.kept_log.append(data)
        self.arrived.set()


class ChannelStream:
    """A worker on a far host. Its control frames travel in the same stream, and there is no memory to share."""

    control: Stream | None = None
    memory: WorkerMemory | None = None
    without_memory = "the worker is on another machine"

    def __init__(
        self,
        session: ChannelSession,
        first: bytes,
        log: bytes,
        *,
        name: str,
        clean_up: Callable[[], Coroutine[None, None, None]],
        heartbeat_seconds: float,
        cleans_up: bool,
    ) -> None:
        """Go on with a channel on which a worker has begun to speak, by `first`; `log` is what came before and beside it.

        `clean_up` ends what the worker leaves behind, over another channel; one that `cleans_up` itself and ends well leaves
        nothing. Every `heartbeat_seconds` the worker is told that this side is there: it ends when it has heard nothing for
        some of them (docs/decisions/33-ssh-host.md).
        """
        assert session.channel is not None
        self._session = session
        self._channel = session.channel
        self._first = first
        self._log = log
        self._name = name
        self._clean_up = clean_up
        self._cleans_up = cleans_up
        self._cleaning: asyncio.Task[None] | None = None
        self._receiver: Receiver | None = None
        self._waiting: collections.deque[memoryview] = collections.deque()
        self._kept = 0
        self._loop = asyncio.get_running_loop()
        self._drained = Drained(self._loop)
        self._killed = False
        self._heartbeat = heartbeat_seconds
        self._beating: asyncio.TimerHandle | None = None

    @property
    def status(self) -> int | None:
        """The worker's exit status, where it is known; negative: a signal."""
        return self._session.status

    def start(self, receiver: Receiver) -> None:
        """Begin to receive."""
        session, self._receiver = self._session, receiver
        if self._log:
            receiver.log(self._log)
        # as it came, where it is taken so: that saves a small call a tenth of this side's work
        take = receiver.received if isinstance(receiver, BytesReceiver) else functools.partial(pour, receiver)
        session.take, session.take_log = take, receiver.log
        session.resumed, session.exited, session.closed = self._flush, self._exited, self._closed
        first, self._first = self._first, b""
        take(first + session.taken())
        if session.ended.is_set():
            self._closed()
        else:
            self._beat()

    def write(self, *pieces: Bytes) -> bool:
        """Send what the channel takes, and keep the rest by reference."""
        if self._session.ended.is_set() or self._killed:
            return True
        for piece in pieces:
            view = memoryview(piece).cast("B") if type(piece) is memoryview else memoryview(piece)
            self._waiting.append(view)
            self._kept += len(view)
        self._flush()
        return self._kept < HIGH_WATER

    def write_frame(self, frame: bytes) -> bool:
        """Send one small frame."""
        if self._waiting or self._session.paused:
            return self.write(frame)
        self._send(frame)
        return True

    async def drain(self, most: int = HIGH_WATER - 1) -> None:
        """Wait until no more than `most` bytes are kept."""
        while self._kept > most and not self._session.ended.is_set():
            await self._drained.wait()

    async def flush(self) -> None:
        """Wait until nothing is kept by reference."""
        await self.drain(0)

    async def close(self, grace: float) -> int | None:
        """End the worker by the end of its input; sshd passes on no signal: after twice the grace a second channel kills it."""
        self._drop()
        if self._beating is not None:
            self._beating.cancel()
        if not self._session.ended.is_set():
            self._channel.write_eof()
            if not await self._end(max(2 * grace, LEAST_GRACE)):
                self._killed = True
                self._sweep()
                if not await self._end(CLOSING_SECONDS):  # it cannot be reached any more: nobody waits for it
                    self._channel.abort()
                    self._closed()
        return await self._swept_up()

    async def _swept_up(self) -> int | None:
        if self._cleaning is not None:
            await asyncio.shield(self._cleaning)
        return self.status

    def kill(self) -> None:
        """Close the channel: the worker's input ends, by which it ends itself and what it forked; then sweep."""
        self._killed = True
        self._drop()
        self._sweep()
        self._channel.abort()
        self._loop.call_later(CLOSING_SECONDS, self._closed)  # where the other side does not agree to it

    def _flush(self) -> None:
        """Hand on to the channel, a piece at a time, until it has enough."""
        waiting, session = self._waiting, self._session
        while waiting and not session.paused:
            view = waiting[0]
            piece = view[:PIECE]
            if len(piece) == len(view):
                waiting.popleft()
            else:
                waiting[0] = view[PIECE:]
            self._kept -= len(piece)
            if not self._send(piece):
                return
        if self._kept < HIGH_WATER:
            self._drained.wake()

    def _send(self, piece: Bytes) -> bool:
        """Give a piece to the channel, which copies it; False where it is closed: `ended` tells."""
        try:
            self._channel.write(piece)
        except OSError:
            self._drop()
            return False
        return True

    def _beat(self) -> None:
        """Send a ping that nobody waits for: its pong finds no one, and is let go."""
        if self._beating is not None and not self._waiting:  # what waits will be heard of
            self.write(pack(Kind.PING))
        self._beating = self._loop.call_later(self._heartbeat, self._beat)

    def _drop(self) -> None:
        self._waiting.clear()
        self._kept = 0
        self._drained.wake()

    async def _end(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._session.ended.wait()
        except TimeoutError:
            return False
        return True

    def _exited(self) -> None:
        """See that the channel ends, though something that the worker has left may hold it open."""
        self._loop.call_later(LAST_SECONDS, lambda: None if self._session.ended.is_set() else self._sweep())

    def _closed(self) -> None:
        self._drop()
        if self._beating is not None:
            self._beating.cancel()
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        if self.status != 0 or not self._cleans_up:
            self._sweep()
        receiver.ended(self._reason())

    def _reason(self) -> str:
        if self._session.error is not None:
            return f"on {self._name} cannot be reached any more: {self._session.error}"
        return describe(self.status)

    def _sweep(self) -> None:
        if self._cleaning is None:
            self._cleaning = self._loop.create_task(self._clean_up(), name="sweeping a far worker")
