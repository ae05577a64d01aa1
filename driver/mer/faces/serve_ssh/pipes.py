"""stdin and stdout of this process as the two ends of a conversation in frames."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Callable, Sequence

from mer.meal.stream import Bytes
from mer_worker.decoder import Decoder
from mer_worker.wire import Frame, WireError

HIGH_WATER = 4 << 20
"""Bytes that may wait for a guest who reads slowly; who has more to say waits."""

CLOSING_SECONDS = 5.0
"""For what was said last to leave; a guest who has gone reads nothing any more."""

MOST_LOST = 64 << 20
"""Bytes that wait, beyond which what a model prints is dropped: prints have no credit, and nobody waits for them."""


MOST_WAITING = 1 << 16
"""Pieces of frames that wait, beyond which prints are dropped too, and at twice which a guest is taken for one who does not
read: he may ask without end for what is refused at once, and each refusal waits here. Results wait for room, 64 at most."""

MOST_PIECES = 64
"""Handed to one system call: IOV_MAX is 1024, and one does not take that much anyhow."""


class Output:
    """Where frames go: whole ones, in the order in which they are said.

    Not a transport of asyncio's: it takes what comes in on the same socket for the end of it, and an sshd without pipes gives
    a command one socket for stdin and stdout.
    """

    def __init__(self, descriptor: int) -> None:
        """Write to a descriptor, which is then this one's."""
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._waiting: collections.deque[memoryview] = collections.deque()
        self._size = 0
        self.closed = False
        """Whether nobody reads any more."""
        self._room = asyncio.Event()
        self._room.set()
        self._empty = asyncio.Event()
        self._empty.set()

    def say(self, *pieces: Bytes) -> None:
        """Write a frame, whatever waits already. What is said after the end is dropped; too much that waits is the end."""
        if self.closed:
            return
        if len(self._waiting) > 2 * MOST_WAITING:
            self._end()
            return
        for piece in pieces:
            view = memoryview(piece).cast("B")
            self._waiting.append(view)
            self._size += len(view)
        if self._empty.is_set():
            self._empty.clear()
            self._write()
        if self._size > HIGH_WATER:
            self._room.clear()

    def murmur(self, frame: bytes) -> None:
        """Write a frame that may be lost."""
        if self._size < MOST_LOST and len(self._waiting) < MOST_WAITING:
            self.say(frame)

    async def room(self) -> None:
        """Wait until more may be said."""
        await self._room.wait()

    async def aclose(self) -> None:
        """Close, once everything has left."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_SECONDS):
                await self._empty.wait()
        self._end()

    def _write(self) -> None:
        """Write what the descriptor takes, and come back for the rest."""
        try:
            while self._waiting:
                written = os.writev(self._descriptor, list(itertools.islice(self._waiting, MOST_PIECES)))
                self._size -= written
                while written:
                    view = self._waiting.popleft()
                    if written < len(view):
                        self._waiting.appendleft(view[written:])
                        break
                    written -= len(view)
                while self._waiting and not self._waiting[0]:
                    self._waiting.popleft()
        except BlockingIOError:
            self._loop.add_writer(self._descriptor, self._write)
        except OSError:  # nobody reads any more: the input ends too, which is how the conversation learns of it
            self._end()
            return
        if self._size <= HIGH_WATER:
            self._room.set()
        if not self._waiting:
            self._loop.remove_writer(self._descriptor)
            self._empty.set()

    def _end(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.remove_writer(self._descriptor)
        self._waiting.clear()
        self._size = 0
        self._room.set()
        self._empty.set()
        os.close(self._descriptor)


class _Input(asyncio.Protocol):
    """Where frames come from."""

    def __init__(self, take: Callable[[Sequence[Frame] | WireError], None]) -> None:
        self._take = take
        self._decoder = Decoder()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        if self.ended.done():
            return
        try:
            frames = self._decoder.feed(data)
        except WireError as error:
            self._take(error)
            return
        self._take(frames)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - gone is gone
        if not self.ended.done():
            self.ended.set_result(None)


@contextlib.asynccontextmanager
async def reading(
    descriptor: int, take: Callable[[Sequence[Frame] | WireError], None]
) -> AsyncIterator[asyncio.Future[None]]:
    """Hand the frames of a descriptor to `take`, or what is wrong with them; give a future that is done at the end."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_read_pipe(
        lambda: _Input(take), os.fdopen(os.dup(descriptor), "rb", buffering=0)
    )
    try:
        yield protocol.ended
    finally:
        transport.close()
