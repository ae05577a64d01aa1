"""The end of a conversation, whoever brings it about: why it is over, and that everybody who waits hears so at once."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable

from mer.core.errors import DeadlineExceeded, MerError, ProtocolViolation
from mer.meal.calls import Call, Calls
from mer.meal.ladder import Ladder
from mer.meal.pings import Pings
from mer.meal.stream import Stream
from mer_worker.wire import WireError

CANCEL_GRACE = 1.0
"""Seconds that a handler gets to let itself be interrupted before its worker is killed."""


class Ending:
    """The end of one conversation: at first there is none."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stream: Stream,
        calls: Calls,
        pings: Pings,
        *,
        cancel: Callable[[int], None],
        refuse: Callable[[], None],
    ) -> None:
        """Cancel a request by `cancel`; have no more taken in by `refuse`."""
        self.reason: MerError | None = None
        """Why it is over; None while it goes on."""
        self.greeted: asyncio.Future[None] = loop.create_future()
        """Done with the worker's hello, or with the end before it."""
        self.ladder = Ladder(loop, calls, cancel=cancel, end=self.give_up)
        """What is done about a request that does not stop."""
        self._loop = loop
        self._stream = stream
        self._calls = calls
        self._pings = pings
        self._refuse = refuse
        self._tell: Callable[[], None] | None = None
        self._killing: asyncio.Task[None] | None = None

    @property
    def lost(self) -> MerError | None:
        """Why the worker gets no more requests; None while it does."""
        return self.reason or self.ladder.given_up

    def check(self) -> None:
        """Raise a MerError where the conversation is over: what it was ended by."""
        if self.reason is not None:
            raise self.again()

    def again(self) -> MerError:
        """Return the reason as an exception of its own: one that several calls raise would collect their tracebacks."""
        lost = self.lost
        assert lost is not None
        return copy.copy(lost).with_traceback(None)

    def when_lost(self, tell: Callable[[], None]) -> None:
        """Call `tell` once the worker gets no more requests, and once it has ended."""
        self._tell = self.ladder.when_given_up = tell

    def overdue(self, request: int, call: Call) -> None:
        """Take a step with a call: its deadline has passed, or the time of a step after it."""
        self.ladder.overdue(request, call)
        if self.ladder.given_up is not None:
            self._refuse()

    def retire(self, why: MerError) -> None:
        """Give the worker no more requests: it says that it ends."""
        self.ladder.retire(why)
        self._refuse()

    def violated(self, error: WireError) -> ProtocolViolation:
        """Give up on a worker that has not spoken the protocol, and return the error that says so."""
        violation = ProtocolViolation(f"the worker did not speak the protocol: {error}")
        self.give_up(violation)
        return violation

    def give_up(self, why: MerError) -> None:
        """Give up on this worker."""
        self.lose(why)
        if self._killing is None:
            self._killing = self._loop.create_task(self._end())

    def ended(self, why: MerError) -> None:
        """Learn that the worker has ended."""
        self.lose(why)
        if self._tell is not None:
            self._tell()

    def lose(self, why: MerError) -> None:
        """Let everybody who waits know; the first reason is the one that counts."""
        if self.reason is not None:
            return
        self.reason = why
        self.ladder.close()
        self._refuse()
        if not self.greeted.done():
            self.greeted.set_exception(why)
            self.greeted.exception()  # somebody may wait for it, or nobody
        for call in self._calls.take_all():
            if not call.future.done():
                call.future.set_exception(
                    DeadlineExceeded("the deadline passed; the worker ended meanwhile") if call.late else self.again()
                )
        self._pings.fail(self.again)

    async def close(self, grace: float) -> int | None:
        """End the worker, and return its exit status."""
        status = await self._stream.close(grace)
        if self._killing is not None:
            await self._killing
        return status

    async def _end(self) -> None:
        await self._stream.close(CANCEL_GRACE / 2)
