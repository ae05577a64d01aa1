"""The worker's main thread: greets, loads, and hands what comes to whatever serves the model (mer_worker.serving)."""

from __future__ import annotations

import os
import sys

from mer_worker.channel import Channel
from mer_worker.control import Ending, Listener, Pulse
from mer_worker.conversation import Conversation
from mer_worker.failures import Failure, error_frame, of_model
from mer_worker.interrupts import Cancelled, Interrupts
from mer_worker.logs import Logs
from mer_worker.runners import RUNNERS, Runner, load
from mer_worker.serving import Serving, serving
from mer_worker.serving.serial import Turn
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
    frame,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Optional


class Worker:
    """One conversation with one driver, and at most one loaded model."""

    def __init__(self, source: int, sink: int, control: Optional[int], *, marker: str, scratch: str) -> None:
        self._decoder = Decoder()
        self._source = source
        self._sink = sink
        self._control = control
        channel, interrupts = Channel(sink), Interrupts()
        self._conversation = Conversation(
            channel, interrupts, Pulse(), Logs(channel, interrupts), Ending(marker, scratch)
        )
        self._channel = channel
        self._turn = Turn(self._conversation)
        self._runner: Optional[Runner] = None
        self._serving: Optional[Serving] = None
        self._is_fork = False

    def run(self) -> int:
        """Serve until the driver says shutdown or is gone; return the exit status."""
        conversation = self._conversation
        conversation.interrupts.install()
        conversation.logs.install()
        hooks = [self._forked]
        os.register_at_fork(after_in_child=lambda: [hook() for hook in hooks])
        try:
            self._channel.send(PREAMBLE, frame(Kind.HELLO, _hello(inband=self._control is None)))
            conversation.follow(self._frames())
            for received in conversation.frames():
                if received.kind == Kind.INFER and self._serving is not None:
                    self._serving.infer(received)
                elif not self._other(received):
                    break
        except WireError as error:
            code = "version" if isinstance(error, VersionMismatch) else "bad-frame"
            self._channel.send(error_frame(Failure("protocol", code, str(error)), 0))
            return 1
        except BrokenPipeError:  # the driver is gone
            conversation.ending.now()
        finally:
            hooks.clear()  # what the interpreter held by them would die after it: Python 3.9 crashes at a Popen that does
            if self._serving is not None:
                self._serving.close()
            if self._runner is not None:
                self._runner.close()
        return 0

    def _frames(self) -> Iterator[Frame]:
        decoder, source, conversation = self._decoder, self._source, self._conversation
        interrupts, pulse, ending = conversation.interrupts, conversation.pulse, conversation.ending
        if self._control is not None:
            Listener(self._control, Decoder(preamble=False), Channel(self._control), interrupts, pulse, ending).start()
            while True:
                count = os.readv(source, (decoder.buffer(),))
                if not count:
                    return
                yield from decoder.received(count)
        from queue import SimpleQueue

        waiting: SimpleQueue[Frame] = SimpleQueue()
        Listener(source, decoder, self._channel, interrupts, pulse, ending, waiting).start()
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
        self._conversation.logs.request = 0  # what it prints goes to fd 2

    def _other(self, received: Frame) -> bool:
        """Handle what is no inference; False when the conversation is over."""
        kind, request = received.kind, received.request
        if kind == Kind.HELLO:
            self._conversation.greet(received.fields())
        elif kind == Kind.ERROR and not request:
            return False  # the driver gives up
        elif self._conversation.peer is None:
            raise WireError("the first frame is a hello")
        elif kind == Kind.LOAD:
            self._load(received)
        elif kind == Kind.PING:
            self._channel.send(self._conversation.pulse.pong(received))
        elif kind == Kind.CANCEL:
            self._conversation.interrupts.cancel(request)
        elif kind == Kind.SHUTDOWN:
            return False
        elif kind == Kind.INFER:
            self._channel.send(error_frame(Failure("protocol", "not-loaded", "no model is loaded"), request))
        elif self._serving is not None and kind in self._serving.kinds:
            self._serving.take(received)
        else:
            failure = Failure("protocol", "unknown-kind", f"this worker has no capability for frames of kind {kind}")
            self._channel.send(error_frame(failure, request))
        return True

    def _load(self, received: Frame) -> None:
        request, turn = received.request, self._turn
        try:
            if self._runner is not None:
                raise Failure("protocol", "already-loaded", "this worker has its model; start another one")
            turn.start(request)
            try:
                fields = received.fields()
                self._runner = load(fields)
                self._serving = serving(self._runner, self._conversation, fields)
                self._conversation.logs.follow_logging()
            finally:
                turn.stop()
        except WireError as error:
            self._channel.send(error_frame(Failure("protocol", "bad-load", str(error)), request))
        except Cancelled:
            turn.stop()  # it may have come on the way there
            self._channel.send(error_frame(Failure("cancelled", "cancelled", "cancelled while loading"), request))
        except BaseException as error:  # noqa: BLE001 - the author's code may raise anything, SystemExit too
            self._channel.send(error_frame(of_model(error, "load", "while the model was loaded"), request))
        else:
            self._channel.send(frame(Kind.RESULT, {}, request=request, number=turn.microseconds()))


CAPABILITIES: tuple[str, ...] = ()
"""What this worker can do beyond the least (docs/wire.md, section 4)."""


def _hello(*, inband: bool) -> dict[str, object]:
    return {
        "protocol": {"min": OLDEST_VERSION, "max": VERSION},
        "capabilities": ["in-band" if inband else "control", *CAPABILITIES],
        "limits": {"head": MAX_HEAD_BYTES, "body": MAX_BODY_BYTES},
        "runners": list(RUNNERS),
        "pid": os.getpid(),
        "python": ".".join(map(str, sys.version_info[:3])),
    }
