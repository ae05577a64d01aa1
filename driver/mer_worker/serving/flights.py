"""Several requests in flight in one worker: which ones, since when, which are to be stopped, and what each prints.

A contextvar says which request a piece of code belongs to: threads have a context each, tasks have one each, and what a
task starts with `asyncio.to_thread` takes its context along.
"""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar

from mer_worker.context import Context
from mer_worker.credit import size_of
from mer_worker.interrupts import Cancelled
from mer_worker.wire import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Optional, Protocol

    from mer_worker.tracing import Spans
    from mer_worker.wire import Frame

    class Flow(Protocol):
        """A request's parts (mer_worker.serving.flows), as whoever reads for all requests sees them."""

        def take(self, received: Frame) -> None:
            """Take a part or credit. Raises: WireError."""

        def wake(self) -> None:
            """Have whoever waits look again."""

        def abandon(self) -> None:
            """Let whoever waits give up."""

        def microseconds(self) -> int:
            """Return how long the handler has run."""


_MOST_EARLY = 1024
"""Cancels that are remembered for requests not read yet; more than a driver has in flight."""

MOST_WAITING = 1024
"""Requests that are kept here while one with parts runs: those of a patient driver, and then no more of them."""

MOST_WAITING_BYTES = 1 << 30
"""Of the inputs of those beyond the usual number, with what of them lies in shared memory."""

MOST_INTERRUPTS = 2
"""Of one request: cancel, and cancel again. What does not stop then is the worker's end to stop."""


class Flight:
    """One request, from the frame that brings it to its answer."""

    __slots__ = (
        "began",
        "cancelled",
        "context",
        "flow",
        "frame",
        "handle",
        "interrupted",
        "lock",
        "open",
        "request",
        "spans",
        "stop",
        "thread",
        "told",
    )

    def __init__(self, frame: Frame, parts_of: Callable[[Flight, int], Any]) -> None:
        """`parts_of` gives what the context's `parts` are to be, by the frame's flags."""
        self.request = frame.request
        self.frame: Optional[Frame] = frame
        """Dropped once its inputs were read: what the handler drops is free."""
        self.flow: Optional[Flow] = None
        """Its parts, where it has any."""
        self.context = Context(frame.request, parts=parts_of(self, frame.flags if frame.kind == Kind.INFER else 0))
        self.handle = ""
        """That of its inputs, where they are staged and not run."""
        self.spans: Optional[Spans] = None
        """What took how long, where its caller asks for that."""
        self.began = 0.0
        """Monotonic seconds; 0 while it waits for its turn."""
        self.cancelled = 0
        """How often it was cancelled."""
        self.stop: Optional[Callable[[Flight], None]] = None
        """Stops its handler, once that runs."""
        self.thread = 0
        """Where a thread of its own runs it."""
        self.lock = threading.RLock()  # the garbage collector may call what prints, which asks for it again
        self.open = False
        """Whether its thread may be interrupted: the handler runs, and writes no frame."""
        self.interrupted = False
        """Whether an interrupt may be on its way to the thread."""
        self.told = 0
        """How many of its cancels have been raised in it, or are on their way."""


current: ContextVar[Optional[Flight]] = ContextVar("mer_flight", default=None)
"""The request that this code runs for."""


class Flights:
    """All that were read and not answered yet."""

    def __init__(self, drop: Callable[[int], None], parts_of: Callable[[Flight, int], Any]) -> None:
        """Let `drop` answer a request that was cancelled before its handler started; `parts_of` as for Flight."""
        self._drop = drop
        self._parts_of = parts_of
        self._flights: dict[int, Flight] = {}
        self._lock = threading.Lock()
        self._fewer = threading.Condition(self._lock)
        self._newest = 0
        self._early: set[int] = set()

    def room(self, most: int) -> bool:
        """Return once fewer than `most` are here, or False where too many are.

        While one of them has parts it is not waited for that: the credit that lets it go on comes behind the next request.
        """
        with self._fewer:
            while len(self._flights) >= most and all(flight.flow is None for flight in self._flights.values()):
                self._fewer.wait()
            return len(self._flights) < most or (
                len(self._flights) < MOST_WAITING and self._size() < MOST_WAITING_BYTES
            )

    def _size(self) -> int:
        """Return the bytes of those whose inputs were not read yet. The lock is held."""
        frames = [flight.frame for flight in self._flights.values()]
        return sum(size_of(frame) for frame in frames if frame is not None)

    def take(self, received: Frame) -> None:
        """Take a part or credit. What is for a request that is over, or has no parts, is ignored.

        Raises:
            WireError: it is more than was asked for.
        """
        flight = self._flights.get(received.request)
        if flight is not None and flight.flow is not None:
            flight.flow.take(received)

    def add(self, frame: Frame) -> Optional[Flight]:
        """Take a request in; None where it was cancelled before it came."""
        with self._lock:
            self._newest = max(self._newest, frame.request)
            early = frame.request in self._early
            self._early = {request for request in self._early if request > self._newest}
            if not early:
                self._flights[frame.request] = flight = Flight(frame, self._parts_of)
                return flight
        self._drop(frame.request)
        return None

    def begin(self, flight: Flight) -> bool:
        """Say that its turn has come; False where it was cancelled, and answered, meanwhile."""
        with self._lock:
            flight.began = time.monotonic()
            return flight.request in self._flights

    def arm(self, flight: Flight, stop: Callable[[Flight], None]) -> None:
        """Say that its handler starts, and how it is stopped.

        Raises:
            Cancelled: it was cancelled on the way there.
        """
        with self._lock:
            flight.stop = stop
            flight.told = flight.cancelled
            if flight.cancelled:
                raise Cancelled

    def end(self, flight: Flight) -> None:
        """Forget one that is answered, or about to be."""
        with self._fewer:
            self._flights.pop(flight.request, None)
            self._fewer.notify()

    def cancel(self, request: int) -> None:
        """Stop this request's handler, or keep it from starting."""
        with self._lock:
            flight = self._flights.get(request)
            if flight is None:
                if request > self._newest and len(self._early) < _MOST_EARLY:
                    self._early.add(request)
                return
            flight.cancelled += 1
            flight.context.cancelled = True
            stop = flight.stop if flight.cancelled <= MOST_INTERRUPTS else None
            waits = not flight.began  # not asked again below: its turn may come meanwhile
            if waits:
                del self._flights[request]
                self._fewer.notify()
        if waits:
            self._drop(request)
        elif stop is not None:
            stop(flight)

    def abandon(self) -> None:
        """Let none wait for its parts any more: the conversation is over."""
        for flight in list(self._flights.values()):
            if flight.flow is not None:
                flight.flow.abandon()

    def running(self) -> list[tuple[int, float]]:
        """Return each request whose handler runs, and since when, the oldest first."""
        with self._lock:
            found = [(flight.began, flight.request) for flight in self._flights.values() if flight.began]
        return [(request, began) for began, request in sorted(found)]

    def thread_of(self, request: int) -> int:
        """Return the thread that runs a request alone; 0 where there is none such."""
        flight = self._flights.get(request)
        return flight.thread if flight is not None else 0

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._flights)

    def hold(self) -> bool:
        """Keep interrupts off the calling thread while it writes a frame; False where none can come."""
        flight = current.get()
        if flight is None or flight.thread != threading.get_ident():
            return False
        with flight.lock:
            if not flight.open:
                return False
            flight.open = False
            coming, flight.interrupted = flight.interrupted, False
        if coming:
            try:
                _let_it_arrive()
            except BaseException:
                flight.open = True
                raise
        return True

    def release(self) -> None:
        """Let them through again.

        Raises:
            Cancelled: one was wanted meanwhile.
        """
        flight = current.get()
        assert flight is not None
        with flight.lock:
            flight.open = True
            wanted, flight.told = flight.told < flight.cancelled, flight.cancelled
        if wanted:
            raise Cancelled


def _let_it_arrive() -> None:
    """Run a few instructions: Python raises what another thread has sent at the next jump backwards."""
    for _ in range(100):
        pass
