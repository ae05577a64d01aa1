"""From a request's frame to its inputs, and from what the handler gave to the answer: for who serves several at once."""

from __future__ import annotations

import time

from mer_worker.failures import Failure, error_frame
from mer_worker.interrupts import Cancelled
from mer_worker.layout import open_frame
from mer_worker.serving.flights import MOST_WAITING
from mer_worker.tensors import encode, values_of
from mer_worker.wire import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mer_worker.conversation import Conversation
    from mer_worker.serving.flights import Flight

U32 = (1 << 32) - 1


def inputs_of(flight: Flight, arrays: str) -> dict[str, Any]:
    """Return a request's inputs, and let go of its frame.

    Raises:
        WireError: they are not what they are said to be.
    """
    received, flight.frame = flight.frame, None
    assert received is not None
    layout, flight.context.meta, segments = open_frame(received)
    return values_of(layout, segments, arrays, writable=False)


def answer(conversation: Conversation, flight: Flight, outputs: Any) -> tuple[Any, ...]:
    """Return the frame of a result, in pieces.

    Raises:
        WireError: the outputs cannot be sent.
    """
    flow = flight.flow
    number = min(int(1e6 * (time.monotonic() - flight.began)), U32) if flow is None else flow.microseconds()
    return conversation.message(encode(outputs), Kind.RESULT, flight.request, number=number)


def too_many(request: int) -> bytes:
    """Return the frame that refuses a request, since too many wait."""
    return error_frame(Failure("busy", "queue-full", f"{MOST_WAITING} requests wait in this worker already"), request)


def failure_of(conversation: Conversation, error: BaseException, request: int) -> bytes:
    """Return the frame of an error that ended the handler, or kept it from starting."""
    if isinstance(error, Cancelled):
        return error_frame(conversation.stopped(request), request)
    return error_frame(conversation.failed(error), request)


def input_failure(error: BaseException) -> Failure:
    """Return the failure of inputs that cannot be read."""
    return Failure("input", "input-invalid", str(error))
