"""Pings that wait for their pong; their numbers are their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from mer.core.errors import DeadlineExceeded, MerError
from mer.meal.pulse import Pulse, pulse_of
from mer_worker.wire import Frame, Kind, WireError, pack


class Pings:
    """The pings of one conversation."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[int, asyncio.Future[Frame]] = {}
        self._last = 0

    async def ask(self, write: Callable[[bytes], object], *, seconds: float) -> float:
        """Send a ping by `write`, and return the seconds until its answer.

        Raises:
            DeadlineExceeded: there was none within `seconds`.
            MerError: what `fail` was given.
        """
        return (await self._ask(write, seconds))[1]

    async def pulse(self, write: Callable[[bytes], object], *, seconds: float) -> Pulse:
        """Send a ping by `write`, and return what its answer tells. Raises: as `ask`."""
        return pulse_of(*await self._ask(write, seconds))

    async def clock(self, write: Callable[[bytes], object], *, seconds: float) -> int | None:
        """Return how far the worker's clock is ahead of this one, microseconds, within half a round trip.

        None: it does not tell its clock. Raises: as `ask`.
        """
        before = time.monotonic_ns()
        pong, _ = await self._ask(write, seconds)
        middle = (before + time.monotonic_ns()) // 2000
        try:
            told = pong.fields().get("clock")
        except WireError:  # a clock is worth no worker
            return None
        return told - middle if isinstance(told, int) else None

    async def _ask(self, write: Callable[[bytes], object], seconds: float) -> tuple[Frame, float]:
        self._last = number = self._last + 1
        future = self._waiting[number] = self._loop.create_future()
        began = self._loop.time()
        write(pack(Kind.PING, request=number))
        try:
            async with asyncio.timeout(seconds):
                pong = await future
        except TimeoutError:
            raise DeadlineExceeded(f"the worker did not answer a ping within {seconds:g} s") from None
        finally:
            self._waiting.pop(number, None)
        return pong, self._loop.time() - began

    def take(self, pong: Frame) -> None:
        """Answer the ping that it is for."""
        future = self._waiting.get(pong.request)
        if future is not None and not future.done():
            future.set_result(pong)

    def fail(self, error: Callable[[], MerError]) -> None:
        """Let every ping end with an error of its own."""
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error())
