"""The worker's main thread: reads requests, runs the model, answers.

The main thread does it itself, since many libraries want to be called there, and a hand-over between threads would cost
a small call a third of its time.
"""

from __future__ import annotations

import os
import sys
import time

from mer_worker.channel import Channel
from mer_worker.control import Ending, Listener, Pulse
from mer_worker.failures import Failure, error_frame, of_model
from mer_worker.interrupts import Cancelled, Interrupts
from mer_worker.layout import open_frame
from mer_worker.logs import Logs
from mer_worker.runners import RUNNERS, Runner, load
from mer_worker.tensors import encode, values_of
from mer_worker.wire import (
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    OLDEST_VERSION,
    PREAMBLE,
    VERSION,
    Decoder,
    Frame,
    Kind,
    VersionMismatch,
    WireError,
    agree,
    frame,
    most_body,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Optional

_U32 = (1 << 32) - 1


class Worker:
    """One conversation with one driver, and at most one loaded model."""

    def __init__(self, source: int, sink: int, control: Optional[int], *, marker: str, scratch: str) -> None:
        self._decoder = Decoder()
        self._source = source
        self._sink = sink
        self._channel = Channel(sink)
        self._control = control
        self._ending = Ending(marker, scratch)
        self._interrupts = Interrupts()
        self._pulse = Pulse()
        self._logs = Logs(self._channel, self._interrupts)
        self._runner: Optional[Runner] = None
        self._greeted = False
        self._most_body = MAX_BODY_BYTES
        self._is_fork = False

    def run(self) -> int:
        """Serve until the driver says shutdown or is gone; return the exit status."""
        self._interrupts.install()
        self._logs.install()
        hooks = [self._forked]
        os.register_at_fork(after_in_child=lambda: [hook() for hook in hooks])
        try:
            self._channel.send(PREAMBLE, frame(Kind.HELLO, _hello(inband=self._control is None)))
            for received in self._frames():
                if received.kind == Kind.INFER and self._runner is not None:
                    self._infer(self._runner, received)
                elif not self._other(received):
                    break
        except WireError as error:
            code = "version" if isinstance(error, VersionMismatch) else "bad-frame"
            self._channel.send(error_frame(Failure("protocol", code, str(error)), 0))
            return 1
        except BrokenPipeError:  # the driver is gone
            self._ending.now()
        finally:
            hooks.clear()  # what the interpreter held by them would die after it: Python 3.9 crashes at a Popen that does
            if self._runner is not None:
                self._runner.close()
        return 0

    def _frames(self) -> Iterator[Frame]:
        decoder, source = self._decoder, self._source
        if self._control is not None:
            Listener(
                self._control,
                Decoder(preamble=False),
                Channel(self._control),
                self._interrupts,
                self._pulse,
                self._ending,
            ).start()
            while True:
                count = os.readv(source, (decoder.buffer(),))
                if not count:
                    return
                yield from decoder.received(count)
        from queue import SimpleQueue

        waiting: SimpleQueue[Frame] = SimpleQueue()
        Listener(source, decoder, self._channel, self._interrupts, self._pulse, self._ending, waiting).start()
        while not self._is_fork:  # a fork has no listener, and would wait for ever
            yield waiting.get()

    def _forked(self) -> None:
        """In a child that the model forks: the conversation is its parent's, which it would spoil by a word of its own.

        One that comes out of the handler finds the end of the input, and exits.
        """
        self._is_fork = True
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (self._source, self._sink, self._control):
            if descriptor is not None:
                os.dup2(nothing, descriptor, inheritable=False)
        os.close(nothing)
        self._channel.renew()
        self._logs.request = 0  # what it prints goes to fd 2

    def _other(self, received: Frame) -> bool:
        """Handle what is no inference; False when the conversation is over."""
        kind, request = received.kind, received.request
        if kind == Kind.HELLO:
            hello = received.fields()
            agree(hello)
            self._most_body = most_body(hello)
            self._greeted = True
        elif kind == Kind.ERROR and not request:
            return False  # the driver gives up
        elif not self._greeted:
            raise WireError("the first frame is a hello")
        elif kind == Kind.LOAD:
            self._load(received)
        elif kind == Kind.PING:
            self._channel.send(self._pulse.pong(received))
        elif kind == Kind.CANCEL:
            self._interrupts.cancel(request)
        elif kind == Kind.SHUTDOWN:
            return False
        elif kind == Kind.INFER:
            self._channel.send(error_frame(Failure("protocol", "not-loaded", "no model is loaded"), request))
        else:
            failure = Failure("protocol", "unknown-kind", f"this worker has no capability for frames of kind {kind}")
            self._channel.send(error_frame(failure, request))
        return True

    def _load(self, received: Frame) -> None:
        request = received.request
        try:
            if self._runner is not None:
                raise Failure("protocol", "already-loaded", "this worker has its model; start another one")
            self._start(request)
            try:
                self._runner = load(received.fields())
                self._logs.follow_logging()
            finally:
                self._stop()
        except WireError as error:
            self._channel.send(error_frame(Failure("protocol", "bad-load", str(error)), request))
        except Cancelled:
            self._stop()  # it may have come on the way there
            self._channel.send(error_frame(Failure("cancelled", "cancelled", "cancelled while loading"), request))
        except BaseException as error:  # noqa: BLE001 - the author's code may raise anything, SystemExit too
            self._channel.send(error_frame(of_model(error, "load", "while the model was loaded"), request))
        else:
            self._channel.send(frame(Kind.RESULT, {}, request=request, number=self._elapsed()))

    def _infer(self, runner: Runner, received: Frame) -> None:
        request = received.request
        try:
            layout, meta, segments = open_frame(received)
            inputs = values_of(layout, segments, runner.arrays, writable=False)
        except WireError as error:
            self._channel.send(error_frame(Failure("input", "input-invalid", str(error)), request))
            return
        del segments
        received.body = b""  # only the inputs hold it now: what the handler drops is free
        try:
            self._start(request)
            try:
                outputs = runner.infer(inputs, meta)
            finally:
                self._stop()
            message = encode(outputs).message(Kind.RESULT, request, number=self._elapsed(), most=self._most_body)
        except Cancelled:
            self._stop()  # it may have come on the way there
            self._channel.send(error_frame(Failure("cancelled", "cancelled", "cancelled"), request))
        except BaseException as error:  # noqa: BLE001 - the author's code may raise anything, SystemExit too
            self._channel.send(error_frame(of_model(error, "model", "in the handler"), request))
        else:
            self._channel.send(*message)
        if runner.ended:
            self._ending.now()

    def _start(self, request: int) -> None:
        self._logs.begin(request)
        self._pulse.since = self._began = time.monotonic()
        self._pulse.request = request
        self._interrupts.begin(request)

    def _stop(self) -> None:
        self._interrupts.end()
        self._finished = time.monotonic()
        self._pulse.request = 0
        self._logs.end()

    def _elapsed(self) -> int:
        return min(int(1e6 * (self._finished - self._began)), _U32)


def _hello(*, inband: bool) -> dict[str, object]:
    return {
        "protocol": {"min": OLDEST_VERSION, "max": VERSION},
        "capabilities": ["in-band"] if inband else ["control"],
        "limits": {"head": MAX_HEAD_BYTES, "body": MAX_BODY_BYTES},
        "runners": list(RUNNERS),
        "pid": os.getpid(),
        "python": ".".join(map(str, sys.version_info[:3])),
    }
