"""From a request's frame to its inputs, and from what the handler gave to the answer: for who serves several at once."""

from __future__ import annotations

import time

from mer_worker.failures import Failure, error_frame
from mer_worker.interrupts import Cancelled
from mer_worker.layout import open_frame
from mer_worker.serving.flights import MOST_WAITING
from mer_worker.serving.seals import SEALING, by_handle, sealed_frame
from mer_worker.tensors import encode, values_of
from mer_worker.tracing import asked
from mer_worker.wire import U32, Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mer_worker.conversation import Conversation
    from mer_worker.serving.flights import Flight
    from mer_worker.serving.seals import Seals


def inputs_of(flight: Flight, arrays: str, seals: Seals) -> Any:
    """Return a request's inputs, or what was staged of them, and let go of its frame. Those that are to be staged get a handle.

    Raises:
        WireError: they are not what they are said to be. Failure: nothing is sealed there, or too much is.
    """
    received, flight.frame = flight.frame, None
    assert received is not None
    if by_handle(received):
        inputs, meta = seals.opened(received)
    else:
        layout, meta, segments = open_frame(received)
        inputs = values_of(layout, segments, arrays, writable=False)
        if received.kind == Kind.SEAL:
            flight.handle = seals.reserve(sum(map(len, segments)))
    if meta:
        flight.context.meta, flight.spans = meta, asked(meta)
    return inputs


def answer(conversation: Conversation, flight: Flight, outputs: Any, seals: Seals) -> tuple[Any, ...]:
    """Return the frame of a result, in pieces; what was staged is held, and the result is its handle.

    It is the next one to be sent of those that may name a head: threads hold Conversation.naming, tasks await nothing.

    Raises:
        WireError: the outputs cannot be sent.
    """
    number, spans, told = _microseconds(flight), flight.spans, None
    if spans is not None:
        spans.step("seal" if flight.handle else "run")
        told = spans.meta()
    if flight.handle:
        seals.keep(flight.handle, outputs)
        return (sealed_frame(flight.handle, flight.request, number=number, meta=told),)
    outgoing = conversation.outgoing
    short = outgoing.frame(flight.request, number, outputs) if outgoing is not None and told is None else None
    if short is not None:
        return (short,)
    encoded = encode(outputs)
    message = conversation.message(encoded, Kind.RESULT, flight.request, number=number, meta=told, templates=outgoing)
    if outgoing is not None:
        outgoing.learn(outputs, encoded.layout)
    return message


def too_many(request: int) -> bytes:
    """Return the frame that refuses a request, since too many wait."""
    return error_frame(Failure("busy", "queue-full", f"{MOST_WAITING} requests wait in this worker already"), request)


def failure_of(conversation: Conversation, error: BaseException, flight: Flight, seals: Seals) -> bytes:
    """Return the frame of an error that ended the handler, or kept it from starting."""
    request, number, told = flight.request, _microseconds(flight), None
    if flight.handle:
        seals.give_up(flight.handle)
    if flight.spans is not None:
        told = flight.spans.ended("seal" if flight.handle else "run")
    if isinstance(error, Cancelled):
        failure = conversation.stopped(request)
    else:
        failure = conversation.failed(error, SEALING) if flight.handle else conversation.failed(error)
    return error_frame(failure, request, number=number, meta=told)


def _microseconds(flight: Flight) -> int:
    """Return how long its handler has run."""
    if not flight.began:
        return 0
    flow = flight.flow
    return min(int(1e6 * (time.monotonic() - flight.began)), U32) if flow is None else flow.microseconds()
