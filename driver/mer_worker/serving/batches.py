"""Several requests in one call of the handler: it gets a list of inputs and returns a list of outputs, in the main thread.

One bad item fails alone: inputs that cannot be read never reach the handler, an exception in the list it returns is that
item's, outputs that cannot be sent are too. A handler that raises on the whole list is called again with each item by
itself. An item that is cancelled is answered at once and the others go on; the last one's cancel interrupts the handler.
"""

from __future__ import annotations

import struct
import threading
import time

from mer_worker.context import Context
from mer_worker.failures import Failure, error_frame
from mer_worker.interrupts import Cancelled
from mer_worker.layout import NO_META, open_frame
from mer_worker.serving.seals import MainThreadSeals, by_handle
from mer_worker.serving.turn import Turn
from mer_worker.tensors import encode, values_of
from mer_worker.tracing import told
from mer_worker.wire import HEADER_BYTES, Kind, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Optional

    from mer_worker.conversation import Conversation
    from mer_worker.runners.python import PythonRunner
    from mer_worker.source import Source
    from mer_worker.wire import Frame

MAX_BATCH = 512
"""Requests of one batch: their frames are all read before the handler is called. Fewer than wait over a single stream."""

_LENGTHS = struct.Struct("<BxHI8xIIQ")
"""Of a header: kind, segments, template, head length, number, body length."""


class Item:
    """One request of the batch that runs."""

    __slots__ = ("context", "inputs", "request")

    def __init__(self, request: int, inputs: Any, meta: Mapping[str, Any]) -> None:
        self.request = request
        self.inputs = inputs
        self.context = Context(request, meta)


class Batches:
    """One batch after the other."""

    kinds = frozenset({Kind.BATCH, Kind.SEAL, Kind.RELEASE})

    def __init__(self, runner: PythonRunner, conversation: Conversation) -> None:
        self._runner = runner
        self._conversation = conversation
        self._channel = conversation.channel
        self._interrupts = conversation.interrupts
        self._turn = Turn(conversation)
        self._seals = MainThreadSeals(runner, conversation, self._turn)
        self._lock = threading.Lock()
        self._open: dict[int, Item] = {}
        """Items of the batch that runs which nobody has answered."""
        self._called: frozenset[int] = frozenset()
        """Items that the handler was called with."""
        self._lead = 0
        """The number under which they run and may be interrupted: that of the last one."""
        self._began = 0.0
        conversation.interrupts.several = self
        conversation.pulse.several = self._running
        conversation.shortcut = self._serve

    def infer(self, received: Frame) -> None:
        """Run a batch of one."""
        self._take([received])

    def take(self, received: Frame) -> None:
        """Run a batch: the infer frames that follow it. Or seal the inputs of one item, or release them.

        Raises:
            WireError: something else follows.
        """
        if received.kind != Kind.BATCH:
            self._seals.take(received)
            return
        count = received.number
        if not 0 < count <= MAX_BATCH:
            raise WireError(f"a batch of {count} requests: from 1 to {MAX_BATCH} are meant")
        frames: list[Frame] = []
        for _ in range(count):
            following = self._conversation.source.next()
            if following is None:
                return  # the driver is gone
            if following.kind != Kind.INFER:
                raise WireError(f"a frame of kind {following.kind} within a batch")
            frames.append(following)
        self._take(frames)

    def close(self) -> None:
        """Nothing runs any more."""

    # --- what Interrupts asks of who has several requests

    def cancel(self, request: int) -> None:
        """Answer an item at once, or interrupt the handler where nobody else waits for it."""
        with self._lock:
            item, lead, called = self._open.get(request), self._lead, self._called
            last = request in called and not any(other in self._open for other in called if other != request)
            if item is not None:
                item.context.cancelled = True
                if not last:
                    del self._open[request]
        if item is not None and last:
            self._interrupts.interrupt(lead)
        elif item is not None:
            ran = int(1e6 * (time.monotonic() - self._began))
            self._channel.send(error_frame(self._conversation.stopped(request), request, number=ran))
        else:
            self._interrupts.interrupt(request)  # perhaps it has not come yet

    def hold(self) -> bool:
        """No thread but the main one is interrupted."""
        return False

    def release(self) -> None:
        """Nothing was held."""

    def _running(self) -> list[tuple[int, float]]:
        with self._lock:
            found = [(request, self._began) for request in sorted(self._open)]
        return found or self._conversation.pulse.alone()  # inputs are being sealed

    # --- a batch

    def _serve(self, source: Source) -> None:
        """Answer batches of the commonest form (mer_worker.templates), until something else has come."""
        take = source.take
        while True:
            data = take()
            items = self._opened(data)
            if items is None:
                source.feed(data)
                return
            source.leave()
            self._run(items)
            del items

    def _opened(self, data: bytes) -> Optional[list[Item]]:
        """Return the items of a batch, or the one of a single request, that came in one piece and is simple; else None."""
        opened, items, at = self._conversation.incoming.opened, [], 0
        end = len(data)
        if end < HEADER_BYTES:
            return None
        kind, segments, template, head, count, body = _LENGTHS.unpack_from(data, 0)
        if kind == Kind.BATCH:
            if segments or template or head or body:
                return None
            at = HEADER_BYTES
        else:
            count = 1
        for _ in range(count):
            if at + HEADER_BYTES > end:
                return None
            _kind, _segments, _template, head, _number, body = _LENGTHS.unpack_from(data, at)
            following = at + HEADER_BYTES + head + body
            found = opened(data[at:following])
            if found is None:
                return None
            items.append(Item(found[0], found[2], NO_META))
            at = following
        return items if at == end else None

    def _take(self, frames: list[Frame]) -> None:
        """Run the requests of these frames, and answer those that cannot be read."""
        items: list[Item] = []
        for received in frames:
            try:
                inputs, meta = self._inputs_of(received)
            except (WireError, MemoryError, Failure) as error:
                self._channel.send(error_frame(self._conversation.unreadable(error), received.request))
                continue
            finally:
                received.body = b""  # only the inputs hold it now
            items.append(Item(received.request, inputs, meta))
        if items:
            self._run(items)

    def _inputs_of(self, received: Frame) -> tuple[Any, Mapping[str, Any]]:
        """Return a request's inputs, or what was staged of them, and its meta. Raises: WireError, MemoryError, Failure."""
        if by_handle(received):
            return self._seals.opened(received)
        layout, meta, segments = open_frame(received)
        return values_of(layout, segments, self._runner.arrays, writable=False), meta

    def _run(self, items: list[Item]) -> None:
        opened = {item.request: item for item in items}
        if len(opened) < len(items):
            raise WireError("two requests of a batch have one number")
        requests = frozenset(opened)
        with self._lock:
            self._open, self._called, self._lead = opened, requests, max(requests)
            self._began = time.monotonic()
        for request in self._interrupts.early(requests):
            self.cancel(request)
        if len(opened) < len(items):
            items = [item for item in items if item.request in opened]
        outcomes = self._outcomes(items)
        with self._lock:
            waiting, self._open = self._open, {}
        microseconds, ended = self._turn.microseconds(), time.monotonic()
        pieces: list[Any] = []
        for item, outcome in outcomes:
            if item.request in waiting:
                meta = item.context.meta
                pieces += self._answer(
                    item.request, outcome, microseconds, told(meta, "run", self._began, ended) if meta else None
                )
        if pieces:
            self._channel.send(*pieces)

    def _outcomes(self, items: list[Item]) -> list[tuple[Item, Any]]:
        """Return outputs, or what went wrong, of each item."""
        outcome = self._call(items, self._lead)
        if not isinstance(outcome, BaseException):
            return list(zip(items, outcome))
        if len(items) < 2 or isinstance(outcome, (Cancelled, Failure)):
            return [(item, outcome) for item in items]
        alone: list[tuple[Item, Any]] = []
        for item in items:
            with self._lock:
                if item.request not in self._open:
                    continue
                self._called, self._lead = frozenset((item.request,)), item.request
            single = self._call([item], item.request)
            alone.append((item, single if isinstance(single, BaseException) else single[0]))
        return alone

    def _call(self, items: list[Item], lead: int) -> Any:
        """Return the handler's list of as many items, or what it has raised."""
        turn = self._turn
        try:
            turn.start(lead)
            try:
                if all(item.context.cancelled for item in items):  # before it could be interrupted
                    raise Cancelled
                outputs = self._runner.call([item.inputs for item in items], [item.context for item in items])
            finally:
                turn.stop()
        except Cancelled as error:
            turn.stop()  # it may have come on the way there
            return error
        except BaseException as error:  # noqa: BLE001 - the author's code may raise anything, SystemExit too
            return error
        if not isinstance(outputs, (list, tuple)) or len(outputs) != len(items):
            gave = f"{len(outputs)} of them" if isinstance(outputs, (list, tuple)) else type(outputs).__name__
            return Failure(
                "output", "output-invalid", f"a handler of batches returns a list of {len(items)} outputs, not {gave}"
            )
        return outputs

    def _answer(
        self, request: int, outcome: Any, microseconds: int, meta: Optional[Mapping[str, Any]]
    ) -> tuple[Any, ...]:
        """Return an item's answer, in pieces."""
        conversation = self._conversation
        outgoing = conversation.outgoing
        try:
            if isinstance(outcome, BaseException):
                raise outcome
            outputs = outcome if type(outcome) is dict else self._runner.checked(outcome)
            short = outgoing.frame(request, microseconds, outputs) if outgoing is not None and not meta else None
            if short is not None:
                return (short,)
            encoded = encode(outputs)
            message = conversation.message(
                encoded, Kind.RESULT, request, number=microseconds, meta=meta, templates=outgoing
            )
            if outgoing is not None:
                outgoing.learn(outputs, encoded.layout)
            return message
        except Cancelled:
            failure = conversation.stopped(request)
        except BaseException as error:  # noqa: BLE001 - whatever the author has put into the list
            failure = conversation.failed(error)
        return (error_frame(failure, request, number=microseconds, meta=meta),)
