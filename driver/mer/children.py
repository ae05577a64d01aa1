"""Child processes that this one started, and has to see the end of."""

from __future__ import annotations

import asyncio
from contextlib import suppress


async def end(process: asyncio.subprocess.Process) -> None:
    """Kill a process, if it still runs, and wait until it is gone with its pipes, though this task is cancelled meanwhile.

    Nobody else would. It has to have no pipe that a child of its own may keep open.
    """
    with suppress(ProcessLookupError):
        process.kill()
    waiting = asyncio.ensure_future(process.communicate())
    cancelled: asyncio.CancelledError | None = None
    while not waiting.done():
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled:
        raise cancelled
