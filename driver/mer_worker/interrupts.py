"""Interrupting the handler, and nothing else: a cancel may not fall into the middle of a frame being written.

Another thread learns that a request is to be cancelled and signals the main thread; Python runs the signal's handler
there, between two of its instructions, or after a system call that the signal has broken off. Only there is it known
whether the main thread is in the author's code.
"""

from __future__ import annotations

import signal
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Optional, Protocol

    class Several(Protocol):
        """Who knows the requests of a worker that has several at once (mer_worker.serving.flights)."""

        def cancel(self, request: int) -> None:
            """As Interrupts.cancel."""

        def hold(self) -> bool:
            """As Interrupts.hold, for the request of the calling thread."""

        def release(self) -> None:
            """As Interrupts.release."""


_MOST_EARLY = 1024
"""Cancels that are remembered for requests not read yet; more than a driver has in flight."""


class Cancelled(KeyboardInterrupt):
    """The request was cancelled. Let it through: what catches it keeps the worker busy until it is killed."""


class Interrupts:
    """Which request runs, which one is to be cancelled, and whether the main thread may be interrupted now."""

    def __init__(self) -> None:
        self._main = threading.main_thread().ident
        self.running = 0
        self.newest = 0
        self.wanted: Optional[int] = None
        self.open = False
        """Whether the main thread is in the author's code, and may be interrupted there. Who serves the smallest requests
        sets this and the three before by himself, as `begin` and `end` do."""
        self._raised = 0
        """The request whose handler was interrupted last."""
        self._held = False
        self.beforehand: set[int] = set()
        self.several: Optional[Several] = None
        """Takes the cancels, where several requests run at once or are answered one by one."""

    def install(self) -> None:
        """Take SIGINT, which nobody else sends: a worker has no terminal."""
        signal.signal(signal.SIGINT, self._interrupt)

    def begin(self, request: int) -> None:
        """Say that this request's handler starts; from now on it may be interrupted.

        Raises:
            Cancelled: it was cancelled before.
        """
        self.newest = self.running = request
        # looked at after `newest` is set, and `cancel` does it the other way round: one of the two sees the other
        if self.beforehand:
            cancelled = request in self.beforehand
            for over in tuple(self.beforehand):  # a copy, made in one step: the other thread may add to it
                if over <= request:
                    self.beforehand.discard(over)
            if cancelled:
                self.running = 0
                raise Cancelled
        self.open = True
        self.look()

    def look(self) -> None:
        """Raise Cancelled if this request was cancelled just before it could be interrupted."""
        if self.wanted == self.running:
            self.raise_now()

    def early(self, requests: Collection[int]) -> Collection[int]:
        """Return those of the requests, which are about to begin together, that were cancelled before."""
        self.newest = max(requests)
        if not self.beforehand:
            return ()
        found = {request for request in tuple(self.beforehand) if request in requests}
        for over in tuple(self.beforehand):
            if over <= self.newest:
                self.beforehand.discard(over)
        return found

    def end(self) -> None:
        """Say that the handler is done: a cancel that comes now is too late."""
        self.open = False
        self.running = 0

    def enter(self, request: int) -> None:
        """Say that a step of this request's handler runs in the main thread: it may be interrupted, as from `begin`."""
        self.running = request
        self.open = True

    def cancel(self, request: int) -> None:
        """Stop this request, or keep it from starting. Called by the listening thread, or by one that watches limits."""
        if self.several is not None:
            self.several.cancel(request)
        else:
            self.interrupt(request)

    def interrupt(self, request: int) -> None:
        """Interrupt this request's handler in the main thread, or keep it from starting there."""
        if request > self.newest and len(self.beforehand) < _MOST_EARLY:
            self.beforehand.add(request)
        if request and request == self.running and self._main is not None:  # 0 is no request
            self.wanted = request
            if request == self._raised:  # its handler has caught the last one, or cleans up for long
                self.open = True
            signal.pthread_kill(self._main, signal.SIGINT)

    def hold(self) -> bool:
        """Keep interrupts off this thread while it writes a frame; False where none can come, and `release` has nothing to do."""
        if threading.get_ident() != self._main:
            return self.several is not None and self.several.hold()
        if self._held:  # a signal's handler that prints while a frame is written: that one lets them through again
            return False
        self._held = True
        return True

    def release(self) -> None:
        """Let them through again.

        Raises:
            Cancelled: one has come meanwhile.
        """
        if self.several is not None and threading.get_ident() != self._main:
            self.several.release()
            return
        self._held = False
        if self.open and self.wanted == self.running:
            self.raise_now()

    def _interrupt(self, _number: int, _frame: object) -> None:
        if self.open and not self._held and self.wanted == self.running:
            self.raise_now()

    def raise_now(self) -> None:
        """Raise Cancelled, once for each cancel."""
        self._raised = self.running
        self.wanted, self.open = None, False
        raise Cancelled
