"""Those who wait until a stream keeps less of what was written to it."""

from __future__ import annotations

import asyncio


class Drained:
    """They look again, all of them, each time that it may be so."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._next: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Wait until it is time to look again."""
        if self._next is None:
            self._next = self._loop.create_future()
        await asyncio.shield(self._next)  # several may wait for it

    def wake(self) -> None:
        """Have them look."""
        if self._next is not None:
            if not self._next.done():
                self._next.set_result(None)
            self._next = None
