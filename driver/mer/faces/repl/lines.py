"""Lines of a script on stdin, read without holding up the event loop: its heartbeats must go on while nothing comes."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncGenerator

from mer.core.errors import UsageError

MAX_LINE = 1 << 20
"""Bytes: a command with a large JSON input fits; a binary file fed in by mistake is told of."""

CHUNK = 1 << 16


async def read_lines(descriptor: int, *, most: int | None = None, what: str = "command") -> AsyncGenerator[str, None]:
    """Give the lines of what `descriptor` reads from, without their ends.

    Raises:
        UsageError: a line, which is to be a `what`, is longer than `most` bytes (else MAX_LINE), or is not UTF-8.
    """
    most = MAX_LINE if most is None else most
    kept = bytearray()
    waits = not stat.S_ISREG(os.fstat(descriptor).st_mode)  # a file is always ready, and no selector takes it
    while True:
        if waits:
            await _readable(descriptor)
        chunk = os.read(descriptor, CHUNK)
        kept += chunk
        *lines, rest = kept.split(b"\n")
        for line in lines:
            yield _text(line, most, what)
        kept = bytearray(rest)
        if len(kept) > most:
            raise UsageError(f"a line of more than {most} bytes is no {what}")
        if not chunk:
            if kept:
                yield _text(kept, most, what)
            return


def _text(line: bytes | bytearray, most: int, what: str) -> str:
    if len(line) > most:
        raise UsageError(f"a line of more than {most} bytes is no {what}")
    try:
        return line.decode().removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UsageError(f"a line that is not UTF-8 is no {what}") from error


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def set_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    try:
        loop.add_reader(descriptor, set_ready)
    except PermissionError:
        return  # such as /dev/null: always ready
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
