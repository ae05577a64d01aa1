"""Calls that wait for a worker's answer, and their deadlines: one timer for all of them.

`asyncio.timeout` costs a call 8 µs, half of what the exchange itself takes; here a call whose deadline is later than that
of one before it costs a comparison.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mer_worker.wire import Frame

LogCallback = Callable[[str, str, bytes], None]
"""Takes a stream's name (`stdout`, `stderr`, `log`), a level or "", and the text's bytes (UTF-8, lines may be cut)."""

Taker = Callable[[Frame], None]
"""Takes a frame as it comes, in the event loop, and returns at once. Raises WireError: that breaks the conversation."""


class Call:
    """One request in flight. Its future is asyncio's own class, which a task waits on by a shorter way than on a subclass."""

    __slots__ = ("abandoned", "due", "future", "late", "on_log", "taker")

    def __init__(
        self, future: asyncio.Future[Frame], due: float | None, on_log: LogCallback | None, taker: Taker | None
    ) -> None:
        self.future = future
        self.due = due
        """Loop time at which something has to be done; None: never."""
        self.on_log = on_log
        self.taker = taker
        """Gets the frames of this request that are not its end: parts and credits."""
        self.late = False
        """Its deadline has passed; it was cancelled, and its outcome is awaited for a grace only."""
        self.abandoned = False
        """Its caller has gone; likewise."""


class Calls:
    """All requests in flight on one session."""

    def __init__(self, loop: asyncio.AbstractEventLoop, overdue: Callable[[int, Call], None]) -> None:
        self._loop = loop
        self._overdue = overdue
        self._calls: dict[int, Call] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0
        self._idle: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, due: float | None, on_log: LogCallback | None, taker: Taker | None = None) -> tuple[int, Call]:
        """Begin a call; numbers rise from 1."""
        self._next = request = self._next + 1
        self._calls[request] = call = Call(self._loop.create_future(), due, on_log, taker)
        if due is not None:
            self._wake_at(due)
        return request, call

    def get(self, request: int) -> Call | None:
        """Return a call that waits."""
        return self._calls.get(request)

    def take(self, request: int) -> Call | None:
        """Return a call and forget it."""
        call = self._calls.pop(request, None)
        if not self._calls and self._idle is not None:
            self._idle.set_result(None)
            self._idle = None
        return call

    def take_all(self) -> list[Call]:
        """Return every call, and forget them."""
        calls = [call for request in list(self._calls) if (call := self.take(request))]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return calls

    def postpone(self, call: Call, due: float) -> None:
        """Give a call a new time at which something has to be done."""
        call.due = due
        self._wake_at(due)

    async def idle(self) -> None:
        """Wait until no call is in flight."""
        while self._calls:
            if self._idle is None:
                self._idle = self._loop.create_future()
            await asyncio.shield(self._idle)

    def _wake_at(self, due: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        for request, call in list(self._calls.items()):
            if call.due is not None and call.due <= now:
                call.due = None
                self._overdue(request, call)
        due = min((call.due for call in self._calls.values() if call.due is not None), default=None)
        if due is not None:
            self._wake_at(due)
