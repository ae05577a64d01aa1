"""Several requests in one call of the handler: it gets a list of inputs and returns a list of outputs, in the main thread.

One bad item fails alone: inputs that cannot be read never reach the handler, an exception in the list it returns is that
item's, outputs that cannot be sent are too. A handler that raises on the whole list is called again with each item by
itself. An item that is cancelled is answered at once and the others go on; the last one's cancel interrupts the handler.
"""

from __future__ import annotations

import threading
import time

from mer_worker.batched import Received, requests_of
from mer_worker.context import Context
from mer_worker.failures import Failure, error_frame
from mer_worker.interrupts import Cancelled
from mer_worker.layout import NO_META, open_frame
from mer_worker.serving.answering import answer, input_failure
from mer_worker.serving.serial import Turn
from mer_worker.tensors import values_of
from mer_worker.wire import Kind, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mer_worker.conversation import Conversation
    from mer_worker.runners.python import PythonRunner
    from mer_worker.wire import Frame


class Item:
    """One request of the batch that runs."""

    __slots__ = ("context", "inputs", "request")

    def __init__(self, request: int, inputs: dict[str, Any], context: Context) -> None:
        self.request = request
        self.inputs = inputs
        self.context = context


class Batches:
    """One batch after the other."""

    kinds = frozenset({Kind.BATCH})

    def __init__(self, runner: PythonRunner, conversation: Conversation) -> None:
        self._runner = runner
        self._conversation = conversation
        self._channel = conversation.channel
        self._interrupts = conversation.interrupts
        self._turn = Turn(conversation)
        self._lock = threading.Lock()
        self._open: dict[int, Item] = {}
        """Items of the batch that runs which nobody has answered."""
        self._lead = 0
        """The number under which the batch runs and may be interrupted: its last item's."""
        self._began = 0.0
        conversation.interrupts.several = self
        conversation.pulse.several = self._running

    def infer(self, received: Frame) -> None:
        """Run a batch of one."""
        one = Received(received.request)
        try:
            one.layout, one.meta, one.segments = open_frame(received)
        except WireError as error:
            one.fault = error
        received.body = b""
        self._run([one])

    def take(self, received: Frame) -> None:
        """Run a batch. Raises: WireError (nobody could be answered)."""
        items = requests_of(received)
        received.body = b""  # only the inputs hold it now
        self._run(items)

    def close(self) -> None:
        """Nothing runs any more."""

    # --- what Interrupts asks of who has several requests

    def cancel(self, request: int) -> None:
        """Answer an item at once, or interrupt the handler where nobody else waits for it."""
        with self._lock:
            item = self._open.get(request)
            last = item is not None and len(self._open) == 1
            if item is not None:
                item.context.cancelled = True
                if not last:
                    del self._open[request]
        if last:
            self._interrupts.interrupt(self._lead)
        elif item is not None:
            self._channel.send(error_frame(self._conversation.stopped(request), request))
        else:
            self._interrupts.interrupt(request)  # perhaps it has not come yet

    def hold(self) -> bool:
        """No thread but the main one is interrupted."""
        return False

    def release(self) -> None:
        """Nothing was held."""

    def _running(self) -> list[tuple[int, float]]:
        with self._lock:
            return [(request, self._began) for request in sorted(self._open)]

    # --- a batch

    def _run(self, received: list[Received]) -> None:
        items = self._read(received)
        if not items:
            return
        with self._lock:
            self._lead = max(item.request for item in items)
            self._open = {item.request: item for item in items}
            self._began = time.monotonic()
        early = self._interrupts.early({item.request for item in items})
        for request in early:
            self.cancel(request)
        outcomes = self._outcomes([item for item in items if item.request in self._open])
        pieces: list[Any] = []
        with self._lock:
            waiting, self._open = self._open, {}
        for item, outcome in outcomes:
            if item.request in waiting:
                pieces += self._answer(item, outcome)
        if pieces:
            self._channel.send(*pieces)

    def _read(self, received: list[Received]) -> list[Item]:
        """Return the items that can be read, and answer the others."""
        items: list[Item] = []
        for one in received:
            try:
                if one.fault is not None:
                    raise one.fault
                assert one.layout is not None
                inputs = values_of(one.layout, one.segments, self._runner.arrays, writable=False)
            except WireError as error:
                self._channel.send(error_frame(input_failure(error), one.request))
                continue
            items.append(Item(one.request, inputs, Context(one.request, one.meta or NO_META)))
        return items

    def _outcomes(self, items: list[Item]) -> list[tuple[Item, Any]]:
        """Return outputs, or what went wrong, of each item."""
        outcome = self._call(items)
        if not isinstance(outcome, BaseException):
            return list(zip(items, outcome))
        if len(items) < 2 or isinstance(outcome, (Cancelled, Failure)):
            return [(item, outcome) for item in items]
        alone: list[tuple[Item, Any]] = []
        for item in items:
            if item.request in self._open:
                single = self._call([item])
                alone.append((item, single if isinstance(single, BaseException) else single[0]))
        return alone

    def _call(self, items: list[Item]) -> Any:
        """Return the handler's list of as many items, or what it has raised."""
        turn = self._turn
        try:
            turn.start(self._lead)
            try:
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

    def _answer(self, item: Item, outcome: Any) -> tuple[Any, ...]:
        conversation, request = self._conversation, item.request
        try:
            if isinstance(outcome, BaseException):
                raise outcome
            outputs = outcome if type(outcome) is dict else self._runner.checked(outcome)
            return answer(conversation, request, outputs, self._turn.microseconds() / 1e6)
        except Cancelled:
            return (error_frame(conversation.stopped(request), request),)
        except BaseException as error:  # noqa: BLE001 - whatever the author has put into the list
            return (error_frame(conversation.failed(error), request),)
