"""A TCP proxy on loopback that drops each connection after so many bytes, of both directions together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def dropping(port: int, most: int) -> AsyncIterator[int]:
    """Give the port of a proxy to `port` that passes `most` bytes a connection on, and then aborts both sides."""
    talking: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talking.add(task)
        task.add_done_callback(talking.discard)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        left = most

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            nonlocal left
            while block := await source.read(4096):
                sink.write(block[:left])
                left -= len(block)
                if left <= 0:
                    await asyncio.sleep(0.01)  # what was passed on arrives
                    return

        try:
            pumps = [
                asyncio.ensure_future(pump(reader, there_writer)),
                asyncio.ensure_future(pump(there_reader, writer)),
            ]
            with contextlib.suppress(asyncio.CancelledError):  # the end of the test
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for each in pumps:
                each.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            for each_writer in (writer, there_writer):
                each_writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(talking):
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)
