"""The frames that a worker sends: from the bytes as they come to whoever waits for what they say, by kind."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from mer.core.errors import ProtocolMismatch, ProtocolViolation, WorkerLost
from mer.meal.calls import Calls, Taker
from mer.meal.ending import Ending
from mer.meal.peer import text
from mer.meal.pings import Pings
from mer.meal.shortcut import Shortcut
from mer.meal.worker_log import WorkerLog
from mer_worker.decoder import Decoder
from mer_worker.wire import MAX_LOG_FRAME_BYTES, Frame, Kind, WireError


class Frames:
    """Takes the frames of one conversation, in the event loop."""

    def __init__(
        self,
        decoder: Decoder,
        calls: Calls,
        pings: Pings,
        log: WorkerLog,
        ending: Ending,
        *,
        greet: Taker,
    ) -> None:
        """Give the hello to `greet`."""
        self.shortcut: Shortcut
        """Learns whether the next bytes begin a frame."""
        self.landed: Callable[[int], None] | None = None
        """Learns which request is over."""
        self._decoder = decoder
        self._calls = calls
        self._pings = pings
        self._log = log
        self._ending = ending
        self._takers: dict[int, Taker] = {Kind.HELLO: greet, Kind.ERROR: self._take_error}
        """By kind: what may come. Before the hello nothing else, and after it no other hello."""

    def greeted(self) -> None:
        """Take what may come after the hello."""
        self._takers = {
            Kind.RESULT: self._take_end,
            Kind.ERROR: self._take_error,
            Kind.PART: self._take_further,
            Kind.CREDIT: self._take_further,
            Kind.LOG: self._take_log,
            Kind.PONG: self._pings.take,
        }

    def buffer_updated(self, count: int) -> None:
        """Take the frames that so many bytes in the decoder's buffer complete."""
        self._take(self._decoder.received, count)

    def received(self, data: bytes) -> None:
        """Take the frames that bytes complete which were read elsewhere."""
        self._take(self._decoder.feed, data)

    def fill(self, descriptor: int, ended: Callable[[], None]) -> None:
        """Read on in the middle of a frame, a large body to where it stays."""
        try:
            count = os.readv(descriptor, (self._decoder.buffer(),))
        except BlockingIOError:
            return
        if count:
            self._take(self._decoder.received, count)
        else:
            ended()

    def _take(self, decode: Callable[[Any], Sequence[Frame]], given: int | bytes) -> None:
        greeting = (
            not self._ending.greeted.done()
        )  # asked first: the hello may come in one piece with what is before it
        try:
            for received in decode(given):
                take = self._takers.get(received.kind)
                if take is None:
                    raise WireError(f"a frame of kind {received.kind}, which a worker does not send now")
                take(received)
        except WireError as error:
            self._ending.violated(error)
        if greeting and (noise := self._decoder.noise()):
            self._log.add(noise)
        self.shortcut.whole = self._decoder.between_frames

    def _take_end(self, received: Frame) -> None:
        request = received.request
        call = self._calls.take(request)
        if call is not None and not call.future.done():
            call.future.set_result(received)
        if self.landed is not None:
            self.landed(request)

    def _take_error(self, received: Frame) -> None:
        fields = received.fields()
        if received.request:
            if fields.get("ends") is True:  # it gets no further request, which would be lost with it
                self._ending.retire(WorkerLost(f"the worker is ending: {text(fields, 'message')}"))
            self._take_end(received)
            return
        error = ProtocolMismatch if fields.get("code") == "version" else ProtocolViolation
        self._ending.give_up(error(f"the worker gave up: {text(fields, 'message')}"))

    def _take_further(self, received: Frame) -> None:
        """Hand on what is not a request's end; of a request that is over, or whose caller has gone, it goes nowhere."""
        call = self._calls.get(received.request)
        if call is None or call.abandoned:
            return
        if call.taker is None:
            raise WireError(f"a frame of kind {received.kind} for a request that takes none")
        call.taker(received)

    def _take_log(self, received: Frame) -> None:
        if len(received.body) > MAX_LOG_FRAME_BYTES:
            raise WireError(f"a log frame of {len(received.body)} bytes: the cap is {MAX_LOG_FRAME_BYTES}")
        call = self._calls.get(received.request)
        fields = received.fields()
        listener = self._log.listener if call is None or call.on_log is None else call.on_log
        self._log.tell(listener, text(fields, "stream"), text(fields, "level"), bytes(received.body))


class ControlFrames:
    """Takes what comes on the control channel."""

    def __init__(self, pings: Pings, ending: Ending) -> None:
        self._pings = pings
        self._ending = ending
        self._decoder = Decoder(preamble=False)
        self.get_buffer = self._decoder.buffer

    def buffer_updated(self, count: int) -> None:
        """Take the frames that so many bytes complete."""
        try:
            for received in self._decoder.received(count):
                if received.kind == Kind.PONG:
                    self._pings.take(received)
        except WireError as error:
            self._ending.violated(error)

    def log(self, text: bytes) -> None:
        """It has none."""

    def ended(self, reason: str) -> None:
        """The data stream tells."""
