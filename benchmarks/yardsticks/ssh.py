"""Yardstick: what a bare asyncssh channel reaches against an sshd: no framing, no worker.

Each is given a connection that is open (or, for `connected`, what asyncssh.connect is to be called with) and an absolute path
of an interpreter on the far side.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncssh

WINDOW = 32 << 20
BLOCK = 1 << 20

ECHO = """import os
while 1:
 b=os.read(0,1<<20)
 if not b: break
 m=memoryview(b)
 while m: m=m[os.write(1,m):]"""


async def ping(connection: asyncssh.SSHClientConnection, calls: int) -> float:
    """Return the p50 of a byte there and back, seconds."""
    process = await connection.create_process("exec cat", encoding=None)
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        process.stdin.write(b"x")
        await process.stdout.readexactly(1)
        times.append(time.perf_counter() - start)
    process.stdin.write_eof()
    await process.wait_closed()
    return statistics.median(times[calls // 10 :])


async def echo(connection: asyncssh.SSHClientConnection, python: str, size: int, rounds: int) -> float:
    """Return the seconds (median) of `size` bytes there and back."""
    line = f"exec {shlex.quote(python)} -S -E -c {shlex.quote(ECHO)}"
    process = await connection.create_process(line, encoding=None, window=WINDOW)
    block, seconds = os.urandom(BLOCK), []

    async def send() -> None:
        for _ in range(size // BLOCK):
            process.stdin.write(block)
            await process.stdin.drain()

    for _ in range(rounds):
        start, got = time.perf_counter(), 0
        sending = asyncio.create_task(send())
        while got < size:
            got += len(await process.stdout.read(BLOCK))
        await sending
        seconds.append(time.perf_counter() - start)
    process.stdin.write_eof()
    await process.wait_closed()
    return statistics.median(seconds)


async def download(connection: asyncssh.SSHClientConnection, size: int, rounds: int) -> float:
    """Return the seconds (median) of `size` bytes from there."""
    seconds = []
    for _ in range(rounds):
        process = await connection.create_process(f"exec head -c {size} /dev/zero", encoding=None, window=WINDOW)
        start, got = time.perf_counter(), 0
        while got < size:
            got += len(await process.stdout.read(BLOCK))
        seconds.append(time.perf_counter() - start)
        await process.wait_closed()
    return statistics.median(seconds)


async def put(connection: asyncssh.SSHClientConnection, size: int, rounds: int) -> float:
    """Return the seconds (median) of a file of `size` bytes by SFTP."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source", Path(folder) / "target"
        source.write_bytes(os.urandom(BLOCK) * (size // BLOCK))
        async with connection.start_sftp_client() as sftp:
            for _ in range(rounds):
                start = time.perf_counter()
                await sftp.put(str(source), str(target))
                seconds.append(time.perf_counter() - start)
                target.unlink()
    return statistics.median(seconds)


async def connected(python: str, address: str, **options: Any) -> float:
    """Return the seconds of connecting and of one exec that imports numpy there."""
    start = time.perf_counter()
    async with asyncssh.connect(address, **options) as connection:
        await connection.run(f"exec {shlex.quote(python)} -c 'import numpy'", check=True)
        return time.perf_counter() - start
