"""One request after the other, in the main thread.

Many libraries want to be called there, and a hand-over between threads would cost a small call a third of its time.
"""

from __future__ import annotations

import time

from mer_worker.context import Context
from mer_worker.failures import Failure, error_frame, of_model
from mer_worker.interrupts import Cancelled
from mer_worker.layout import open_frame
from mer_worker.tensors import encode, values_of
from mer_worker.wire import Kind, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mer_worker.conversation import Conversation
    from mer_worker.runners import Runner
    from mer_worker.wire import Frame

U32 = (1 << 32) - 1


class Turn:
    """The stretch of the author's code that runs: it may be interrupted, and what it prints is the request's."""

    def __init__(self, conversation: Conversation) -> None:
        self._logs = conversation.logs
        self._pulse = conversation.pulse
        self._interrupts = conversation.interrupts
        self._began = self._finished = 0.0

    def start(self, request: int) -> None:
        """Begin. Raises: Cancelled (it was cancelled before)."""
        self._logs.begin(request)
        self._pulse.since = self._began = time.monotonic()
        self._pulse.request = request
        self._interrupts.begin(request)

    def stop(self) -> None:
        """End; may be called again, where the end itself was interrupted."""
        self._interrupts.end()
        self._finished = time.monotonic()
        self._pulse.request = 0
        self._logs.end()

    def microseconds(self) -> int:
        """Return how long it took."""
        return min(int(1e6 * (self._finished - self._began)), U32)


class Serial:
    """Answers each request before it looks at the next one."""

    kinds: frozenset[int] = frozenset()

    def __init__(self, runner: Runner, conversation: Conversation) -> None:
        self._runner = runner
        self._conversation = conversation
        self._channel = conversation.channel
        self._turn = Turn(conversation)
        self._context = Context()

    def infer(self, received: Frame) -> None:
        """Run the handler, and send what it gave."""
        request, runner, turn, channel = received.request, self._runner, self._turn, self._channel
        try:
            layout, meta, segments = open_frame(received)
            inputs = values_of(layout, segments, runner.arrays, writable=False)
        except WireError as error:
            channel.send(error_frame(Failure("input", "input-invalid", str(error)), request))
            return
        del segments
        received.body = b""  # only the inputs hold it now: what the handler drops is free
        context = self._context
        context.request, context.meta = request, meta
        try:
            turn.start(request)
            try:
                outputs = runner.infer(inputs, context)
            finally:
                turn.stop()
            most = self._conversation.most_body
            message = encode(outputs).message(Kind.RESULT, request, number=turn.microseconds(), most=most)
        except Cancelled:
            turn.stop()  # it may have come on the way there
            channel.send(error_frame(Failure("cancelled", "cancelled", "cancelled"), request))
        except BaseException as error:  # noqa: BLE001 - the author's code may raise anything, SystemExit too
            channel.send(error_frame(of_model(error, "model", "in the handler"), request))
        else:
            channel.send(*message)
        if runner.ended:
            self._conversation.ending.now()

    def take(self, received: Frame) -> None:
        """It takes nothing else."""

    def close(self) -> None:
        """Nothing runs any more."""
