"""A conversation with a worker whose handler takes several requests in one call (docs/wire.md, "batch").

One batch is in flight at a time. What comes meanwhile waits here, and goes at the end of the loop's turn in which the
worker became free, so that callers who were woken by one batch are all in the next. A fixed wait for more costs a caller
that much every time: it is done only where the version says so, and never for a request that is alone.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any

from mer.core.errors import DeadlineExceeded, InputInvalid
from mer.core.running import Batch
from mer.meal.answers import Reply
from mer.meal.calls import Call, LogCallback
from mer.meal.session import Session
from mer.meal.shortcut import Shortcut
from mer.meal.stream import Bytes, Stream
from mer_worker.encoded import Encoded
from mer_worker.tensors import encode
from mer_worker.wire import HEADER, HEADER_BYTES, RECEIVE_BYTES, Kind, WireError, pack

MOST_BATCH_BYTES = 256 << 20
"""Of the bodies of one batch, where it has more than one request: a worker holds them all at once."""


_UNSENT = 1 << 62
"""The turn of a request that waits here: after all."""


class Waiting:
    """One request that was not sent yet."""

    __slots__ = ("call", "deadline", "encoded", "inputs", "meta", "since")

    def __init__(
        self,
        call: Call,
        inputs: Mapping[str, Any] | None,
        encoded: Encoded | None,
        meta: Mapping[str, Any] | None,
        deadline: float | None,
        since: float,
    ) -> None:
        self.call = call
        self.inputs = inputs
        self.encoded = encoded
        self.meta = meta
        self.deadline = deadline
        self.since = since


class Gathering(Shortcut):
    """The shortest way into a batch, and out of one."""

    __slots__ = ("_enqueue", "_is_open", "_landed")

    def __init__(
        self,
        *given: Any,
        enqueue: Callable[[Mapping[str, Any], float | None, LogCallback | None], Call],
        landed: Callable[[int], None],
    ) -> None:
        """`given` as Shortcut takes it; `landed` learns which request has its answer."""
        super().__init__(*given)
        self._enqueue = enqueue
        self._landed = landed
        self._is_open = True

    def close(self) -> None:
        """Take no more requests."""
        super().close()
        self._is_open = False

    def send(
        self,
        inputs: Mapping[str, Any],
        deadline: float | None = None,
        on_log: LogCallback | None = None,
        encoded: Encoded | None = None,
    ) -> Call | None:
        """Queue a request."""
        return self._enqueue(inputs, deadline, on_log) if self._is_open and encoded is None else None

    def read_from(self, descriptor: int, ended: Callable[[], None]) -> None:
        """Read what has come."""
        if not self.whole:
            self._fill(descriptor, ended)
            return
        try:
            data = os.read(descriptor, RECEIVE_BYTES)
        except BlockingIOError:
            return
        if data:
            self.received(data)
        else:
            ended()

    def received(self, data: bytes) -> None:
        """Take what has come: the answers of a batch come in one piece, as a rule."""
        opened, waiting, at, end = self._incoming.opened, self._calls.waiting, 0, len(data)
        while end - at >= HEADER_BYTES:
            lengths = HEADER.unpack_from(data, at)
            following = at + HEADER_BYTES + lengths[5] + lengths[7]
            found = opened(data[at:following])
            call = None if found is None else waiting.get(found[0])
            if call is None or not call.short:
                break
            assert found is not None
            del waiting[found[0]]
            if not call.future.done():  # else its caller has gone
                call.future.set_result(found)
            self._landed(found[0])
            at = following
        if self._calls.settling is not None:
            self._calls.settle()
        if at < end:
            self._general(data[at:] if at else data)


class BatchingSession(Session):
    """A session whose inferences go in batches; all the rest is as usual."""

    def __init__(self, stream: Stream, *, arrays: str = "numpy", on_log: LogCallback | None = None) -> None:
        super().__init__(stream, arrays=arrays, on_log=on_log)
        self.batch = Batch()
        """How large a batch may be, and how long it waits."""
        self._queue: dict[int, Waiting] = {}
        self._flying: set[int] = set()
        self._flush_due: asyncio.Handle | None = None
        self._gathering: asyncio.TimerHandle | None = None
        """Until when the first of the next batch waits for more."""
        self._frames.landed = self._landed
        self._use(
            Gathering(
                self._loop,
                self._calls,
                self._incoming,
                stream.write_frame,
                self._frames.received,
                self._frames.fill,
                enqueue=self._enqueue_inputs,
                landed=self._landed,
            )
        )

    async def infer(
        self,
        encoded: Encoded,
        *,
        meta: Mapping[str, Any] | None = None,
        deadline: float | None = None,
        on_log: LogCallback | None = None,
    ) -> Reply:
        """Run the model once, together with what else waits (see Session.infer)."""
        if self.lost is not None:
            raise self._ending.again()
        call = self._enqueue(None, encoded, meta, deadline, on_log)
        return self.reply(await self.outcome(call.request, call))

    async def infer_values(
        self,
        inputs: Mapping[str, Any],
        *,
        meta: Mapping[str, Any] | None = None,
        deadline: float | None = None,
        on_log: LogCallback | None = None,
    ) -> dict[str, Any]:
        """Run the model once, together with what else waits (see Session.infer)."""
        if self.lost is not None:
            raise self._ending.again()
        call = self._enqueue(inputs, None, meta, deadline, on_log)
        return self.reply(await self.outcome(call.request, call)).outputs

    def abandon(self, request: int) -> None:
        """Its caller has gone: forget it, or cancel it where it was sent."""
        if self._queue.pop(request, None) is not None:
            self._calls.take(request)
        else:
            super().abandon(request)

    # --- what waits

    def _enqueue_inputs(self, inputs: Mapping[str, Any], deadline: float | None, on_log: LogCallback | None) -> Call:
        call = self._enqueue(inputs, None, None, deadline, on_log)
        call.short = True
        return call

    def _enqueue(
        self,
        inputs: Mapping[str, Any] | None,
        encoded: Encoded | None,
        meta: Mapping[str, Any] | None,
        deadline: float | None,
        on_log: LogCallback | None,
    ) -> Call:
        request, call = self._calls.add(deadline, on_log)
        call.turn = _UNSENT
        since = self._loop.time() if self.batch.max_delay_ms else 0.0
        self._queue[request] = Waiting(call, inputs, encoded, meta, deadline, since)
        if self._gathering is not None and len(self._queue) >= self.batch.max_size:
            self._gathering.cancel()
            self._gathering = None
        if self._flush_due is None and self._gathering is None and not self._flying:
            self._flush_due = self._loop.call_soon(self._flush)
        return call

    def _overdue(self, request: int, call: Call) -> None:
        if self._queue.pop(request, None) is None:
            super()._overdue(request, call)
            return
        self._calls.take(request)
        if not call.future.done():
            call.future.set_exception(
                DeadlineExceeded("the deadline passed while requests before this one were running")
            )

    def _landed(self, request: int) -> None:
        """Learn that a request has its answer; after the last one of a batch comes the next batch."""
        flying = self._flying
        flying.discard(request)
        if not flying and self._flush_due is None:
            self._flush_due = self._loop.call_soon(self._flush)  # behind the callers that were just woken

    # --- a batch

    def _flush(self) -> None:
        self._flush_due = None
        queue, batch = self._queue, self.batch
        if self.lost is not None:
            self._fail_queue()
        if not queue or self._flying or self._gathering is not None:
            return
        assert self.peer is not None
        most = batch.max_size if "batch" in self.peer.capabilities else 1
        if batch.max_delay_ms and 1 < len(queue) < most:
            until = next(iter(queue.values())).since + batch.max_delay_ms / 1e3
            if until > self._loop.time():
                self._gathering = self._loop.call_at(until, self._gathered)
                return
        frames: list[tuple[Bytes, ...]] = []
        size = 0
        for request in list(queue)[:most]:
            waiting = queue.pop(request)
            frame = self._form(request, waiting)
            if frame is None:
                continue
            self._calls.waited(waiting.call)  # what was sent beside the batches meanwhile comes before it
            self._flying.add(request)
            frames.append(frame)
            size += sum(map(len, frame))
            if size > MOST_BATCH_BYTES:
                break
        if len(frames) > 1:
            self._write(pack(Kind.BATCH, number=len(frames)), *(piece for frame in frames for piece in frame))
        elif frames:
            self._write(*frames[0])
        elif queue:
            self._flush_due = self._loop.call_soon(self._flush)

    def _gathered(self) -> None:
        """Send what has come while the first of a batch waited for more."""
        self._gathering = None
        self._flush()

    def _fail_queue(self) -> None:
        """Tell who waits for a worker that takes no more requests."""
        for request in list(self._queue):
            call = self._queue.pop(request).call
            self._calls.take(request)
            if not call.future.done():
                call.future.set_exception(self._ending.again())

    def _form(self, request: int, waiting: Waiting) -> tuple[Bytes, ...] | None:
        """Return a request's frame, in pieces; None where there is none, and its caller was told."""
        outgoing, inputs, encoded = self._outgoing, waiting.inputs, waiting.encoded
        number = 0 if waiting.deadline is None else self._calls.milliseconds(waiting.deadline)
        try:
            if inputs is not None:
                if outgoing is not None and not waiting.meta:
                    short = outgoing.frame(request, number, inputs)
                    if short is not None:
                        return (short,)
                encoded = encode(inputs)
            assert encoded is not None
            assert self.peer is not None
            most = self.peer.most_body
            message = encoded.message(
                Kind.INFER, request, number=number, meta=waiting.meta, most=most, templates=outgoing
            )
        except Exception as error:  # noqa: BLE001 - the caller's own values may raise anything, and the others go on
            self._calls.take(request)
            if not waiting.call.future.done():
                told = InputInvalid(str(error)) if isinstance(error, WireError) else error
                waiting.call.future.set_exception(told)
            return None
        if outgoing is not None and inputs is not None:
            outgoing.learn(inputs, encoded.layout)
        return message
