"""The parts of one request of several: answers that its handler yields, and inputs that come while it runs.

The thread that reads hands in what comes; the handler's own waits for it, and for credit, before the next part is made. So
a reader that is slow stops its own handler, and nobody else's. A write to the driver may block, as that of a result does:
the driver reads its pipe whatever happens.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque

from mer_worker.credit import Credit, Window, weight, weight_of, weight_of_frame
from mer_worker.interrupts import Cancelled
from mer_worker.layout import open_frame
from mer_worker.templates import PART
from mer_worker.tensors import encode, values_of
from mer_worker.wire import U32, Flag, Kind, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Optional

    from mer_worker.conversation import Conversation
    from mer_worker.interrupts import Interrupts
    from mer_worker.serving.flights import Flight
    from mer_worker.wire import Bytes, Frame

IN_PARTS = Flag.MORE | Flag.STREAM


class Flow:
    """What is common to both ways of waiting. `take` belongs to the reading thread, everything else to the handler's."""

    def __init__(self, conversation: Conversation, flight: Flight, flags: int, arrays: str) -> None:
        self._conversation = conversation
        self._flight = flight
        self._arrays = arrays
        self._more = bool(flags & Flag.MORE)
        self._lock = threading.Lock()
        """Of all that both threads touch. Taken undisturbed only: an interrupt would leave it locked."""
        self._interrupts = conversation.interrupts
        self._credit = Credit()
        self._window = Window()
        self._asked = False
        self._came: deque[Frame] = deque()
        self._waited = 0.0
        self._over = False
        self.streams = bool(flags & Flag.STREAM)
        """Whether the answer may come in parts."""

    def take(self, received: Frame) -> None:
        """Take a part or credit from the driver.

        Raises:
            WireError: it is more than was asked for, or none.
        """
        with self._lock:
            if received.kind == Kind.CREDIT:
                self._credit.add(received)
            elif not self._more:
                raise WireError("a part of an input that has ended")
            else:
                self._more = bool(received.flags & Flag.MORE)
                if self._more or received.segments:  # an end may come alone, and needs no credit
                    self._window.came(weight(received))
                    self._came.append(received)
            self._changed()

    def wake(self) -> None:
        """Have whoever waits look again: the request was cancelled, or nobody is there any more."""
        with self._lock:
            self._changed()

    def abandon(self) -> None:
        """Let whoever waits give up: the conversation is over."""
        self._over = True
        self.wake()

    def send(self, part: Any) -> None:
        """Send a part of the answer, for which there is credit.

        Raises:
            WireError: it cannot be sent. Cancelled: the request was cancelled.
        """
        conversation, request = self._conversation, self._flight.request
        outgoing = conversation.outgoing
        # from before a head is named, or memory taken, until it is sent
        with Undisturbed(self._interrupts), conversation.naming:
            short = None if outgoing is None else outgoing.frame(request, self.microseconds(), part)
            if short is not None:
                self._write(PART + short[1:])
                spent = weight_of_frame(short)
            else:
                encoded = encode(part)
                message = conversation.message(
                    encoded, Kind.PART, request, number=self.microseconds(), templates=outgoing
                )
                self._write(*message)
                spent = weight_of(encoded, message[0])
                if outgoing is not None:
                    outgoing.learn(part, encoded.layout)
            with self._lock:
                self._credit.spend(spent)

    def microseconds(self) -> int:
        """Return how long the handler has run, without what it waited for the driver."""
        return max(0, min(int(1e6 * (time.monotonic() - self._flight.began - self._waited)), U32))

    def _changed(self) -> None:
        """Wake who waits. The lock is held."""
        raise NotImplementedError

    def _may_send(self) -> bool:
        return self._credit.open

    def _has_come(self) -> bool:
        return bool(self._came) or not self._more

    def _ask(self) -> None:
        """Grant the driver its first input parts, once the handler wants some. Undisturbed."""
        if self._more and not self._asked:
            self._asked = True
            with self._lock:
                granted = self._window.open(self._flight.request)
            self._write(granted)

    def _next(self) -> Optional[Frame]:
        """Return the next input part; None after the last one. Undisturbed, once `_has_come`."""
        with self._lock:
            if not self._came:
                return None
            received = self._came.popleft()
            granted = self._window.taken(self._flight.request, weight(received))
            more = self._more
        if granted is not None and more:
            self._write(granted)
        return received

    def _values(self, received: Frame) -> dict[str, Any]:
        try:
            layout, _, segments = open_frame(received)
            received.body = b""  # only the values hold it now
            return values_of(layout, segments, self._arrays, writable=False)
        except (WireError, MemoryError) as error:  # the caller's fault, which the handler passes on
            raise self._conversation.unreadable(error) from None

    def _write(self, *pieces: Bytes) -> None:
        try:
            self._conversation.channel.send(*pieces)
        except OSError:  # the driver is gone; a handler that knows its own broken pipes must not take it for one
            raise Cancelled from None


class ThreadFlow(Flow):
    """The parts of a request that has a thread of its own, which waits by itself."""

    def __init__(self, conversation: Conversation, flight: Flight, flags: int, arrays: str) -> None:
        super().__init__(conversation, flight, flags, arrays)
        self._condition = threading.Condition(self._lock)

    def wait_for_credit(self) -> None:
        """Return once a part may be sent. Raises: Cancelled."""
        if not self._credit.open:
            with Undisturbed(self._interrupts):
                self._wait(self._may_send)

    def __iter__(self) -> ThreadFlow:
        return self

    def __next__(self) -> dict[str, Any]:
        with Undisturbed(self._interrupts):
            self._ask()
            self._wait(self._has_come)
            received = self._next()
        if received is None:
            raise StopIteration
        return self._values(received)

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait undisturbed: no exception can reach a thread that waits for a lock, so a cancel wakes it instead."""
        flight, began = self._flight, time.monotonic()
        # in a thread that the handler has started none is told of cancels, and only further ones count
        told = flight.told if flight.thread == threading.get_ident() else flight.cancelled
        with self._condition:
            while not ready():
                if self._over or flight.cancelled > told:
                    raise Cancelled
                self._condition.wait()
        self._waited += time.monotonic() - began

    def _changed(self) -> None:
        self._condition.notify_all()


class TaskFlow(Flow):
    """The parts of a request that is a task: it waits by futures of its loop."""

    def __init__(
        self, conversation: Conversation, flight: Flight, flags: int, arrays: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(conversation, flight, flags, arrays)
        self._loop = loop
        self._waiters: list[asyncio.Future[None]] = []
        """More than one where the handler looks for input parts in a task beside its generator."""

    async def wait_for_credit(self) -> None:
        """Return once a part may be sent."""
        if not self._credit.open:
            await self._wait(self._may_send)

    def __aiter__(self) -> TaskFlow:
        return self

    async def __anext__(self) -> dict[str, Any]:
        while True:
            with Undisturbed(self._interrupts):
                self._ask()
            await self._wait(self._has_come)
            with Undisturbed(self._interrupts):
                received = self._next()
            if received is not None:
                return self._values(received)
            if not self._more:  # else another task of the handler was quicker
                raise StopAsyncIteration

    async def _wait(self, ready: Callable[[], bool]) -> None:
        began = time.monotonic()
        while True:
            with Undisturbed(self._interrupts), self._lock:
                if ready():
                    break
                waiter = self._loop.create_future()
                self._waiters.append(waiter)
            await waiter
        self._waited += time.monotonic() - began

    def _changed(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            self._loop.call_soon_threadsafe(_set, waiters)


class NoParts:
    """The input parts of a task whose request has none."""

    def __aiter__(self) -> NoParts:
        return self

    async def __anext__(self) -> dict[str, Any]:
        raise StopAsyncIteration


NO_PARTS = NoParts()


class Undisturbed:
    """Keeps interrupts off the calling thread; leaving it raises Cancelled where one was wanted meanwhile."""

    __slots__ = ("_held", "_interrupts")

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts
        self._held = False

    def __enter__(self) -> None:
        self._held = self._interrupts.hold()

    def __exit__(self, *_error: object) -> None:
        if self._held:
            self._interrupts.release()


def _set(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
