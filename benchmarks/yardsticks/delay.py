"""A proxy before a server that delays what passes, each way, without limiting the rate; a process of its own.

    python benchmarks/yardsticks/delay.py HOST PORT SECONDS

It says on which port it listens, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue()

    async def deliver() -> None:
        while (item := await waiting.get()) is not None:
            due, block = item
            await asyncio.sleep(max(0.0, due - loop.time()))
            writer.write(block)
            await writer.drain()
        writer.close()

    delivering = asyncio.create_task(deliver())
    while block := await reader.read(1 << 18):
        waiting.put_nowait((loop.time() + seconds, block))
    waiting.put_nowait(None)
    await delivering


async def serve(host: str, port: int, seconds: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(host, port)
        both = pump(reader, there[1], seconds), pump(there[0], writer, seconds)
        await asyncio.gather(*both, return_exceptions=True)

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)


@contextlib.asynccontextmanager
async def proxy(host: str, port: int, seconds: float) -> AsyncIterator[int]:
    """Give the port of a proxy that delays by `seconds` each way."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, host, str(port), str(seconds),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield int(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
