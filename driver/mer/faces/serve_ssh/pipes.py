"""stdin and stdout of this process as the two ends of a conversation in frames."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence

from mer.meal.host import Bytes
from mer_worker.wire import Decoder, Frame, WireError

HIGH_WATER = 4 << 20
"""Bytes that may wait for a guest who reads slowly; who has more to say waits."""

CLOSING_SECONDS = 5.0
"""For what was said last to leave; a guest who has gone reads nothing any more."""

MOST_LOST = 64 << 20
"""Bytes that wait, beyond which what a model prints is dropped: prints have no credit, and nobody waits for them."""


class Output(asyncio.BaseProtocol):
    """Where frames go: whole ones, in the order in which they are said."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._closed = asyncio.Event()

    @classmethod
    async def open(cls, descriptor: int) -> Output:
        """Write to a descriptor, which is then this one's."""
        loop = asyncio.get_running_loop()
        transport, output = await loop.connect_write_pipe(cls, os.fdopen(descriptor, "wb", buffering=0))
        transport.set_write_buffer_limits(high=HIGH_WATER)
        output._transport = transport
        return output

    def say(self, *pieces: Bytes) -> None:
        """Write a frame, whatever waits already. What is said after the end is dropped."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.writelines(pieces)

    def murmur(self, frame: bytes) -> None:
        """Write a frame that may be lost."""
        if self._transport is not None and self._transport.get_write_buffer_size() < MOST_LOST:
            self.say(frame)

    async def room(self) -> None:
        """Wait until more may be said."""
        await self._room.wait()

    async def aclose(self) -> None:
        """Close, once everything has left."""
        if self._transport is None:
            return
        self._transport.close()
        try:
            async with asyncio.timeout(CLOSING_SECONDS):
                await self._closed.wait()
        except TimeoutError:
            self._transport.abort()

    # --- what the transport tells

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reader learns of the end too
        self._room.set()
        self._closed.set()


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
