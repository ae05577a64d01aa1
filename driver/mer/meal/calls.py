"""Calls that wait for a worker's answer, and their deadlines: one timer for all of them.

`asyncio.timeout` costs a call 8 µs, half of what the exchange itself takes; here a call whose deadline is later than that
of one before it costs a comparison.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

from mer_worker.wire import Frame

LogCallback = Callable[[str, str, bytes], None]
"""Takes a stream's name (`stdout`, `stderr`, `log`), a level or "", and the text's bytes (UTF-8, lines may be cut)."""

Taker = Callable[[Frame], None]
"""Takes a frame as it comes, in the event loop, and returns at once. Raises WireError: that breaks the conversation."""

_U32 = (1 << 32) - 1


class Call:
    """One request in flight. Its future is asyncio's own class, which a task waits on by a shorter way than on a subclass."""

    # no __init__, and defaults in the class: calling one and setting what stays as it is would cost a small call a percent
    future: asyncio.Future[Any]
    request: int
    due: float | None = None
    """Loop time at which something has to be done; None: never."""
    on_log: LogCallback | None = None
    taker: Taker | None = None
    """Gets the frames of this request that are not its end: parts and credits."""
    short = False
    """Whether its future may get a result by the shortest way (mer.meal.shortcut), not only a frame."""
    late = False
    """Its deadline has passed; it was cancelled, and its outcome is awaited for a grace only."""
    abandoned = False
    """Its caller has gone; likewise."""
    cancels = 0
    """How often it was cancelled (mer.meal.ladder)."""
    turn = 0
    """Its place in the order in which requests were sent, where it had to wait here (`waited`); 0: by its number."""

    def is_after(self, other: Call) -> bool:
        """Whether the worker got the other one first."""
        return (self.turn or 2 * self.request, self.request) > (other.turn or 2 * other.request, other.request)


class ShortCall(Call):
    """One that was sent by the shortest way."""

    short = True


class Calls:
    """All requests in flight on one session."""

    def __init__(self, loop: asyncio.AbstractEventLoop, overdue: Callable[[int, Call], None]) -> None:
        self.waiting: dict[int, Call] = {}
        """By number."""
        self.last = 0
        """The newest request's number; they rise from 1."""
        self._loop = loop
        self._overdue = overdue
        self.settling: asyncio.Future[None] | None = None
        """Somebody waits until none is left, and `settle` is to be called after each end."""
        self._timer: asyncio.TimerHandle | None = None
        self.first = math.inf
        """When the timer rings: a call that is due later needs no more than to say so."""

    def __len__(self) -> int:
        return len(self.waiting)

    def add(self, due: float | None, on_log: LogCallback | None, taker: Taker | None = None) -> tuple[int, Call]:
        """Begin a call."""
        self.last = request = self.last + 1
        self.waiting[request] = call = Call()
        call.future, call.request, call.on_log, call.taker = self._loop.create_future(), request, on_log, taker
        if due is not None:
            self.postpone(call, due)
        return request, call

    def get(self, request: int) -> Call | None:
        """Return a call that waits."""
        return self.waiting.get(request)

    def waited(self, call: Call) -> None:
        """Say that a call is sent only now, after all that have a number."""
        call.turn = 2 * self.last + 1

    def take(self, request: int) -> Call | None:
        """Return a call and forget it."""
        call = self.waiting.pop(request, None)
        if self.settling is not None:
            self.settle()
        return call

    def take_all(self) -> list[Call]:
        """Return every call, and forget them."""
        calls = [call for request in list(self.waiting) if (call := self.take(request))]
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self.first = None, math.inf
        return calls

    def postpone(self, call: Call, due: float) -> None:
        """Give a call a (new) time at which something has to be done."""
        call.due = due
        if due < self.first:
            self._set_timer(due)

    def milliseconds(self, deadline: float | None) -> int:
        """Return what is left until `deadline` (loop time) as a header's number; 0 for none."""
        if deadline is None:
            return 0
        left = int(1e3 * (deadline - time.monotonic()))  # the loop's own clock (asyncio.BaseEventLoop.time), without it
        return left if 0 < left <= _U32 else 1 if left < 1 else _U32

    async def idle(self) -> None:
        """Wait until no call is in flight."""
        while self.waiting:
            await asyncio.shield(self._settled())

    def when_idle(self, tell: Callable[[], None]) -> None:
        """Call `tell` once no call is in flight, whichever way the last one ends."""
        self._settled().add_done_callback(lambda _: tell())

    def _settled(self) -> asyncio.Future[None]:
        if self.settling is None:
            self.settling = self._loop.create_future()
        return self.settling

    def settle(self) -> None:
        """Wake who waits for the last call's end, if this was it."""
        if not self.waiting and self.settling is not None:
            self.settling.set_result(None)
            self.settling = None

    def _sweep(self) -> None:
        self._timer, self.first = None, math.inf
        now = self._loop.time()
        for request, call in list(self.waiting.items()):
            if call.due is not None and call.due <= now:
                call.due = None
                self._overdue(request, call)
        due = min((call.due for call in self.waiting.values() if call.due is not None), default=None)
        if due is not None and due < self.first:
            self._set_timer(due)

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.first = due
        self._timer = self._loop.call_at(due, self._sweep)
