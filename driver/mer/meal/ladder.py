"""What is done about a request that is to stop and does not: ever firmer, each step bounded.

1. A cancel: the handler is interrupted, and the request ends with its outcome. That is the acknowledgement.
2. STEP seconds later another one, for a handler that has caught the first.
3. STEP seconds later the worker is given up: it gets no more requests, and is replaced. Others that it runs at the same
   time have OTHERS seconds to end; then its input is closed, and SIGTERM and SIGKILL follow (Stream.close).

A request that waits behind another one in the worker is not stuck: its caller is told, and the ladder begins when it is
its turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mer.core.errors import DeadlineExceeded, MerError, WorkerLost
from mer.meal.calls import Call, Calls

STEP = 0.5
"""Seconds between two steps: a handler in Python stops within milliseconds, one in C after its call."""

CANCELS = 2
"""How often a request is cancelled before its worker is given up."""

OTHERS = 10.0
"""Seconds that the other requests of a worker get which is given up for one of them: most answer sooner, and whoever waits
longer is better served by a new worker than by one that hangs."""


class Ladder:
    """The steps for the requests of one session."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        calls: Calls,
        *,
        cancel: Callable[[int], None],
        end: Callable[[MerError], None],
    ) -> None:
        """Cancel by `cancel`, and end the worker by `end`."""
        self._loop = loop
        self._calls = calls
        self._cancel = cancel
        self._end = end
        self._giving_up: asyncio.TimerHandle | None = None
        self.in_order = True
        """Whether the worker does one request after the other, so that one may wait behind another."""
        self.given_up: MerError | None = None
        """Why the worker gets no more requests; None while it does."""
        self.when_given_up: Callable[[], None] | None = None
        """Is called when it gets no more."""

    def stop(self, call: Call) -> None:
        """Begin with a call whose caller has gone."""
        call.abandoned = True
        if not call.cancels:
            self._step(call)

    def overdue(self, request: int, call: Call) -> None:
        """Take a step with a call: its deadline, or a step before, has passed."""
        if not (call.late or call.abandoned):
            call.late = True
            self._step(call)
        elif self.in_order and any(call.is_after(other) for other in self._calls.waiting.values()):
            # a worker that does one thing after the other has not seen it yet: it will be told as it comes
            self._tell(call, "the deadline passed while requests before this one were running")
            self._calls.postpone(call, self._loop.time() + STEP)
        elif call.cancels < CANCELS:
            self._step(call)
        else:
            self._calls.take(request)
            self._tell(call, "the deadline passed; the model did not let itself be stopped, so its worker was ended")
            self._give_up(WorkerLost("the worker was ended, since a request did not let itself be stopped"))

    def retire(self, why: MerError) -> None:
        """Give the worker no more requests: it says that it ends, and gets its time for it."""
        if self.given_up is None:
            self._mark(why)
            self._wait_for_others()

    def close(self) -> None:
        """Leave the worker to whoever ends it."""
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    def _step(self, call: Call) -> None:
        call.cancels += 1
        self._cancel(call.request)
        self._calls.postpone(call, self._loop.time() + STEP)

    def _tell(self, call: Call, text: str) -> None:
        if not call.future.done():
            call.future.set_exception(DeadlineExceeded(text))

    def _give_up(self, why: MerError) -> None:
        if self.given_up is None:
            self._mark(why)
        if self.in_order or not self._calls.waiting:
            self._finish()
        elif self._giving_up is None:
            self._wait_for_others()

    def _wait_for_others(self) -> None:
        self._giving_up = self._loop.call_later(OTHERS, self._finish)
        self._calls.when_idle(self._others_done)

    def _others_done(self) -> None:
        if self._giving_up is not None:
            self._finish()

    def _mark(self, why: MerError) -> None:
        self.given_up = why
        if self.when_given_up is not None:
            self._loop.call_soon(self.when_given_up)  # not in the middle of a step: it may end the worker

    def _finish(self) -> None:
        self.close()
        assert self.given_up is not None
        self._end(self.given_up)
