"""Answers that a handler yields, and inputs that come while it runs: the parts of one request, in the main thread.

Each part is one write. The thread reads for itself only when it has nothing to go on with, no credit or no input part, so
that a stream costs a worker no second thread and hardly a system call beside its writes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from mer_worker.context import Context
from mer_worker.credit import Credit, Window, weight, weight_of, weight_of_frame
from mer_worker.failures import error_frame
from mer_worker.interrupts import Cancelled
from mer_worker.layout import open_frame
from mer_worker.templates import PART
from mer_worker.tensors import encode, values_of
from mer_worker.tracing import asked
from mer_worker.wire import U32, Flag, Kind, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Union

    from mer_worker.conversation import Conversation
    from mer_worker.runners import Runner
    from mer_worker.serving.flows import ThreadFlow
    from mer_worker.serving.turn import Turn
    from mer_worker.wire import Bytes, Frame


def is_parts(outputs: Any) -> bool:
    """Whether a handler has given parts, by a generator or another iterator, and not outputs."""
    return hasattr(type(outputs), "__next__") and not isinstance(outputs, Mapping)


def close(parts: Any) -> None:
    """End an iterator early: a generator's `finally` runs. What it raises then is printed, since the outcome stands."""
    ending = getattr(parts, "close", None)
    if ending is None:
        return
    try:
        ending()
    except BaseException:  # noqa: BLE001 - the author's code may raise anything
        import traceback

        traceback.print_exc()


def send_all(flow: Union[Flow, ThreadFlow], runner: Runner, parts: Any) -> Mapping[str, Any]:
    """Send what a handler yields, and return its last outputs. Raises: as the handler, and as `flow.send`."""
    wait, send, following = flow.wait_for_credit, flow.send, parts.__next__
    try:
        while True:
            wait()  # first: a reader that is slow stops the model itself
            send(runner.checked(following()))
    except StopIteration as end:
        return {} if end.value is None else runner.checked(end.value)
    except BaseException:
        close(parts)
        raise


class Flow:
    """The parts of one request, both ways. Iterated over, it gives the inputs that come in parts."""

    def __init__(self, conversation: Conversation, request: int, arrays: str, *, more: bool) -> None:
        """`more`: whether inputs come in parts."""
        self._conversation = conversation
        self._outgoing = conversation.outgoing
        self._request = request
        self._arrays = arrays
        self._more = more
        self._credit = Credit()
        self._window = Window()
        self._asked = False
        self._came: deque[Frame] = deque()
        self._began = time.monotonic()
        self._waited = 0.0
        self.broken: Exception | None = None
        """The conversation is over, because of this. The author's code may have caught it on its way."""

    def send(self, part: Any) -> None:
        """Send a part of the answer once there is credit for it.

        Raises:
            WireError: it cannot be sent. Cancelled: the request was cancelled.
        """
        interrupts = self._conversation.interrupts
        held = interrupts.hold()  # from before a head is named, or memory taken, until it is sent
        try:
            short = None if self._outgoing is None else self._outgoing.frame(self._request, self.microseconds(), part)
            if short is not None:
                self._write(PART + short[1:])
            else:
                self._send_new(part)
        finally:
            if held:
                interrupts.release()
        if short is not None:
            self._credit.spend(weight_of_frame(short))

    def _send_new(self, part: Any) -> None:
        """Send a part by the general way, and have a form for the next one like it. Raises: WireError."""
        encoded, outgoing = encode(part), self._outgoing
        message = self._conversation.message(
            encoded, Kind.PART, self._request, number=self.microseconds(), templates=outgoing
        )
        self._credit.spend(weight_of(encoded, message[0]))
        self._write(*message)
        if outgoing is not None:
            outgoing.learn(part, encoded.layout)

    def microseconds(self) -> int:
        """Return how long the handler has run, without what it waited for the driver."""
        return min(int(1e6 * (time.monotonic() - self._began - self._waited)), U32)

    def wait_for_credit(self) -> None:
        """Return once a part may be sent. Raises: Cancelled."""
        while not self._credit.open:
            self._receive()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        while not self._came:
            if not self._more:
                raise StopIteration
            if not self._asked:
                self._asked = True
                self._tell(self._window.open(self._request))
            self._receive()
        received = self._came.popleft()
        granted = self._window.taken(self._request, weight(received))
        if granted is not None and self._more:
            self._tell(granted)
        try:
            layout, _, segments = open_frame(received)
            received.body = b""  # only the values hold it now
            return values_of(layout, segments, self._arrays, writable=False)
        except (WireError, MemoryError) as error:  # the caller's fault, which the handler passes on
            raise self._conversation.unreadable(error) from None

    def _receive(self) -> None:
        """Wait for a frame of this request, and take it."""
        began = time.monotonic()
        try:
            received = self._conversation.next_frame(self._request)
            self._waited += time.monotonic() - began
            if received is None:
                raise Cancelled  # nobody is there any more: the handler ends as if it were told to
            if received.kind == Kind.CREDIT:
                self._credit.add(received)
            else:
                self._take_part(received)
        except WireError as error:
            self.broken = error
            raise

    def _take_part(self, received: Frame) -> None:
        if not self._more:
            raise WireError("a part of an input that has ended")
        self._more = bool(received.flags & Flag.MORE)
        if self._more or received.segments:  # an end may come alone, and needs no credit
            self._window.came(weight(received))
            self._came.append(received)

    def _tell(self, granted: bytes) -> None:
        interrupts = self._conversation.interrupts
        held = interrupts.hold()
        try:
            self._write(granted)
        finally:
            if held:
                interrupts.release()

    def _write(self, *pieces: Bytes) -> None:
        try:
            self._conversation.channel.send(*pieces)
        except (
            OSError
        ) as error:  # the driver is gone; a handler that knows its own broken pipes must not take it for one
            self.broken = error
            raise Cancelled from None


class Streams:
    """Runs the handler of requests that take parts, or bring them."""

    def __init__(self, runner: Runner, conversation: Conversation, turn: Turn) -> None:
        self._runner = runner
        self._conversation = conversation
        self._turn = turn

    def answer(self, request: int, flags: int, inputs: Any, meta: Mapping[str, Any]) -> None:
        """Run the handler, and send what it gives.

        Raises:
            WireError: the driver has not kept to the protocol.
        """
        turn, channel, conversation = self._turn, self._conversation.channel, self._conversation
        flow = Flow(conversation, request, self._runner.arrays, more=bool(flags & Flag.MORE))
        context = Context(request, meta, flow)
        spans = asked(meta) if meta else None
        failure = told = None
        try:
            turn.start(request)
            try:
                outputs = self._outputs(flow, flags, inputs, context)
            finally:
                turn.stop()
            if spans is not None:
                spans.step("run")
                told = spans.meta()
            message = conversation.message(
                encode(outputs),
                Kind.RESULT,
                request,
                number=flow.microseconds(),
                meta=told,
                templates=conversation.outgoing,
            )
        except Cancelled:
            turn.stop()  # it may have come on the way there
            failure = conversation.stopped(request)
        except BaseException as error:  # noqa: BLE001 - the author's code may raise anything, SystemExit too
            failure = conversation.failed(error)
        if flow.broken is not None:
            raise flow.broken
        if failure is not None:
            told = None if spans is None else spans.ended("run")
            channel.send(error_frame(failure, request, number=flow.microseconds(), meta=told))
        else:
            channel.send(*message)
        if self._runner.ended:
            conversation.ending.now()

    def _outputs(self, flow: Flow, flags: int, inputs: Any, context: Context) -> Mapping[str, Any]:
        """Return the handler's outputs: all of them, or those that come last, after the parts."""
        runner = self._runner
        if not flags & Flag.STREAM:
            return runner.infer(inputs, context)
        outputs = runner.begin(inputs, context)
        if not is_parts(outputs):
            return outputs  # type: ignore[no-any-return]
        return send_all(flow, runner, outputs)
