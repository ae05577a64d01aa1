"""One command from the first await to the last: signals end it as Ctrl-C does, and what it opened is closed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable

from mer.core.errors import Interrupted
from mer.faces.face import Face

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""What service managers, `timeout` and a terminal that goes away send: a run that they end is on record as cancelled."""


def run_to_its_end(awaited: Awaitable[int | None], face: Face) -> int:
    """Await the command and close what it opened; return its exit code.

    Raises:
        MerError, KeyboardInterrupt
    """
    return asyncio.run(_whole(awaited, face))


async def _whole(awaited: Awaitable[int | None], face: Face) -> int:
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    received: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        received.append(number)
        if task is not None:
            task.cancel()

    for number in ENDING_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup asked for that
            loop.add_signal_handler(number, end, number)
    try:
        async with contextlib.AsyncExitStack() as closing:
            closing.push_async_callback(face.access.aclose)
            return await awaited or 0
    except asyncio.CancelledError:
        if received:
            raise Interrupted(f"stopped by {received[0].name}") from None
        raise
