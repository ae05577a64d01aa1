"""A request whose answer comes in parts, and whose inputs may: the driver's end of their flow control.

What has come and was not read yet waits here, as frames: never more than a window of parts and of bytes (mer_worker.credit).
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Self, TypeAlias

from mer.core.errors import InputInvalid, MerError, UsageError
from mer.meal.answers import Reply
from mer.meal.calls import Call, LogCallback
from mer.meal.session import Session
from mer.meal.stream import Bytes
from mer_worker.credit import Credit, Window, weight, weight_of
from mer_worker.encoded import Encoded
from mer_worker.tensors import encode
from mer_worker.wire import Flag, Frame, Kind, WireError, dump, flagged, pack

CAPABILITY = "stream"

InputParts: TypeAlias = "AsyncIterable[Mapping[str, Any]] | Iterable[Mapping[str, Any]]"
"""Inputs that come in parts: dicts by name, like those of a call."""

Message: TypeAlias = "Callable[[int], tuple[Bytes, ...]]"


class PartStream:
    """One request, from its first frame to its last. Iterate over it for the parts, and `aclose` it whatever happens."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._request = 0
        self._call: Call | None = None
        self._came: collections.deque[Frame] = collections.deque()
        self._window = Window()
        self._credit = Credit()
        self._waiter: asyncio.Future[None] | None = None
        self._creditor: asyncio.Future[None] | None = None
        self._pump: asyncio.Task[None] | None = None
        self._over = False
        self.run_us = 0
        """Microseconds that the handler has run, by the worker's clock, when it sent what was read last."""
        self.end: Reply | None = None
        """What the request ended with, once it has ended well."""
        self.whole = False
        """Whether what was read last is the end of the answer: the only part of a model that answers at once."""

    @classmethod
    async def open(
        cls,
        session: Session,
        message: Message,
        *,
        flags: int = 0,
        parts: AsyncIterable[Encoded] | None = None,
        deadline: float | None = None,
        on_log: LogCallback | None = None,
    ) -> Self:
        """Send a request, an `infer` frame that `message` makes of its number, and take the answer in parts.

        A worker that knows no parts answers as a whole. `deadline` is loop time, for all of it.

        Raises:
            UsageError: the inputs come in parts, which this worker does not know.
            InputInvalid, DeadlineExceeded, WorkerLost: as Session.begin.
        """
        assert session.peer is not None
        able = CAPABILITY in session.peer.capabilities
        if parts is not None and not able:
            raise UsageError("this worker takes no inputs in parts")
        if able:
            flags |= Flag.STREAM
        if parts is not None:
            flags |= Flag.MORE
        self = cls(session)

        def form(request: int) -> tuple[Bytes, ...]:
            made = flagged(message(request), flags)
            return (*made, self._window.open(request)) if able else made

        self._request, self._call = await session.begin(form, deadline=deadline, on_log=on_log, taker=self._take)
        self._call.future.add_done_callback(self._wake)
        if parts is not None:
            self._pump = asyncio.create_task(self._send(parts), name="sending input parts")
            self._pump.add_done_callback(self._pumped)
        return self

    def __aiter__(self) -> AsyncIterator[Reply]:
        return self

    async def __anext__(self) -> Reply:
        """Return the next part.

        Raises:
            ModelFailed, DeadlineExceeded, WorkerLost, Interrupted, ProtocolViolation: as Session.infer, after the parts
                that came before.
            InputInvalid: an input part cannot be sent; or whatever their iterable raises.
        """
        assert self._call is not None
        while not self._came:
            if self._over:
                raise StopAsyncIteration
            if self._call.future.done():
                return await self._last(self._call)
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        received = self._came.popleft()
        granted = self._window.taken(self._request, weight(received))
        if granted is not None and not self._call.future.done():
            self._session.tell(granted)  # no wait between a part and its reader: one that is cancelled would lose it
        self.run_us = received.number
        return self._session.reply(received)

    async def aclose(self) -> None:
        """End the request, if it still runs: the handler is interrupted, and ended with its worker if it does not stop."""
        self._over = True
        self._came.clear()
        call, pump = self._call, self._pump
        # all of it before the first wait, which may itself be cancelled
        if call is not None:
            if not call.future.done():
                self._session.abandon(self._request)
            call.future.add_done_callback(_let_go)
        if pump is not None:
            pump.cancel()
            await asyncio.wait((pump,))
        if call is not None:
            await asyncio.wait((call.future,))  # it ends with its worker at the latest
            if not call.future.cancelled() and call.future.exception() is None:
                self.run_us = max(self.run_us, call.future.result().number)

    async def _last(self, call: Call) -> Reply:
        self._over = True
        failed = None if self._pump is None or not self._pump.done() else _failure(self._pump)
        if failed is not None:
            raise failed
        try:
            reply = self._session.reply(await self._session.outcome(self._request, call))
        except MerError as error:
            self.run_us = max(self.run_us, error.run_us)
            raise
        self.run_us, self.end = reply.run_us, reply
        if not reply.descriptors:
            raise StopAsyncIteration
        self.whole = True
        return reply

    # --- what comes, in the event loop

    def _take(self, received: Frame) -> None:
        if received.kind == Kind.CREDIT:
            self._credit.add(received)
            _set(self._creditor)
        else:
            self._window.came(weight(received))
            self._came.append(received)
            _set(self._waiter)

    def _wake(self, _future: asyncio.Future[Any]) -> None:
        _set(self._waiter)
        if self._pump is not None:
            self._pump.cancel()  # nobody takes them any more

    # --- input parts

    async def _send(self, parts: AsyncIterable[Encoded]) -> None:
        session, request, credit = self._session, self._request, self._credit
        assert session.peer is not None
        async for encoded in parts:
            while not credit.open:
                self._creditor = asyncio.get_running_loop().create_future()
                await self._creditor
            try:
                form = await session.form(encoded, Kind.PART)
                opening = await session.send_part(request, form, Flag.MORE)
            except WireError as error:
                raise InputInvalid(f"an input part: {error}") from error
            credit.spend(weight_of(encoded, opening))
        await session.send(pack(Kind.PART, dump({"tensors": []}), request=request))

    def _pumped(self, pump: asyncio.Task[None]) -> None:
        if _failure(pump) is not None:
            self._session.abandon(self._request)


async def inference(
    session: Session, encoded: Encoded, *, meta: Mapping[str, Any] | None = None, deadline: float | None = None
) -> Message:
    """Return what makes the `infer` frame of these inputs."""
    return await session.form(encoded, Kind.INFER, deadline=deadline, meta=meta)


def milliseconds(deadline: float | None) -> int:
    """Return what is left until `deadline` (loop time), as a frame's number; 0 for none."""
    if deadline is None:
        return 0
    return min(max(1, int(1e3 * (deadline - asyncio.get_running_loop().time()))), (1 << 32) - 1)


async def encoded_parts(parts: InputParts) -> AsyncIterator[Encoded]:
    """Give input parts in the wire's form.

    Raises:
        InputInvalid: one cannot be sent.
    """
    async for part in each(parts):
        try:
            yield encode(part)
        except WireError as error:
            raise InputInvalid(f"an input part: {error}") from error


async def each(parts: InputParts) -> AsyncIterator[Mapping[str, Any]]:
    """Give the parts of an iterable of either kind."""
    if isinstance(parts, AsyncIterable):
        async for part in parts:
            yield part
    else:
        for part in parts:
            yield part


def _set(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _let_go(ended: asyncio.Future[Any]) -> None:
    """Take what a request ended with, since nobody asks for it any more: else asyncio complains of an error unseen."""
    if not ended.cancelled():
        ended.exception()


def _failure(task: asyncio.Task[None]) -> BaseException | None:
    return None if task.cancelled() else task.exception()
