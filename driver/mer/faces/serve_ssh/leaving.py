"""A guest who goes away ends what he asked for: sshd tells a command nothing of it, but closes the other end of its stdout."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Coroutine
from typing import Any

from mer.core.errors import Interrupted

LOOK_SECONDS = 1.0
"""Between two looks: a model that computes for nobody does so for as long at most."""


async def unless_gone(work: Coroutine[Any, Any, None], descriptor: int) -> None:
    """Await `work`, or cancel it once nobody reads from the descriptor any more.

    Raises:
        Interrupted: nobody does; and whatever `work` raises.
    """
    # no events: hang-up and error are told unasked, and the end of stdin, which is the same socket, is neither
    poll = select.poll()
    poll.register(descriptor, 0)
    working, gone = asyncio.ensure_future(work), False
    try:
        while not working.done():
            await asyncio.wait((working,), timeout=LOOK_SECONDS)
            if not working.done() and not gone and poll.poll(0):
                gone = working.cancel()
    except asyncio.CancelledError:
        working.cancel()
        await asyncio.wait((working,))
        raise
    if gone and working.cancelled():
        raise Interrupted("whoever asked for it has gone")
    await working
