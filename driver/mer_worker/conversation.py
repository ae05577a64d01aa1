"""What everything that serves requests shares: the way in, the way out, and what may interrupt."""

from __future__ import annotations

import threading
from collections import deque

from mer_worker.credit import size_of
from mer_worker.failures import Failure, error_frame
from mer_worker.limits import Limits
from mer_worker.shared import goes_shared, shares
from mer_worker.templates import Incoming, Outgoing
from mer_worker.wire import MAX_BODY_BYTES, BodyDropped, Flag, Kind, WireError, agree, most_body

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, Union

    from mer_worker.channel import Channel
    from mer_worker.control import Ending, Pulse
    from mer_worker.encoded import Encoded
    from mer_worker.interrupts import Interrupts
    from mer_worker.logs import Logs
    from mer_worker.runners import Runner
    from mer_worker.shared import Sharing
    from mer_worker.source import Source
    from mer_worker.wire import Frame

    Bytes = Union[bytes, bytearray, memoryview]

MOST_SET_ASIDE = 1024
"""Frames that are kept while a request waits for its own: the requests of a patient driver, and then no more of them."""
MOST_SET_ASIDE_BYTES = 1 << 30
"""Of them, with their segments in shared memory: one request of the largest size, or many of a usual one."""

_OF_A_REQUEST = (Kind.PART, Kind.CREDIT)


class Peer:
    """What the driver said of itself in its hello."""

    __slots__ = ("capabilities", "most_body")

    def __init__(self, hello: Mapping[str, Any]) -> None:
        """Read a hello.

        Raises:
            VersionMismatch: the two have no version in common.
            WireError: it is no hello.
        """
        agree(hello)
        self.most_body = most_body(hello)
        named = hello.get("capabilities")
        self.capabilities = (
            frozenset(name for name in named if type(name) is str) if type(named) is list else frozenset()
        )


class Conversation:
    """The frames of one driver, and the way to answer them."""

    __slots__ = (
        "_aside_bytes",
        "_set_aside",
        "channel",
        "ending",
        "incoming",
        "interrupts",
        "limits",
        "logs",
        "memory",
        "most_body",
        "naming",
        "outgoing",
        "peer",
        "pulse",
        "runner",
        "shortcut",
        "source",
    )

    def __init__(self, channel: Channel, interrupts: Interrupts, pulse: Pulse, logs: Logs, ending: Ending) -> None:
        self.channel = channel
        self.interrupts = interrupts
        self.pulse = pulse
        self.logs = logs
        self.ending = ending
        self.limits = Limits()
        """What the version may use; the load frame says."""
        self.peer: Peer | None = None
        """None until its hello has come."""
        self.runner: Runner | None = None
        """The loaded model's."""
        self.most_body = MAX_BODY_BYTES
        """Bytes of body that the driver takes."""
        self.incoming = Incoming(Kind.INFER, "buffer", writable=False)
        """Heads of requests that the driver has named."""
        self.outgoing: Outgoing | None = None
        """Names heads of results; None: the driver knows no templates. Frames with templates have to leave in the order in
        which they were made: the main thread alone uses it, or who holds `naming`."""
        self.naming = threading.RLock()
        """Held from before a head is named until its frame is sent, where several threads answer. Undisturbed, as a channel."""
        self.source: Source
        """Where frames come from."""
        self.shortcut: Callable[[Source], None] | None = None
        """Serves the commonest requests straight from the stream, and returns when something else has come."""
        self.memory: Sharing | None = None
        """Where large tensors travel; None: with their frames."""
        self._set_aside: deque[Frame] = deque()
        self._aside_bytes = 0

    def greet(self, hello: Mapping[str, Any]) -> None:
        """Take the driver's hello. Raises: as Peer."""
        self.peer = Peer(hello)
        self.most_body = self.peer.most_body
        if not shares(hello):
            self.memory = None
        if "templates" in self.peer.capabilities:
            memory = self.memory
            put, most = (None, 0) if memory is None else (memory.put, MAX_BODY_BYTES)
            self.outgoing = Outgoing(Kind.RESULT, self.most_body, put=put, most_shared=most)

    def message(
        self,
        encoded: Encoded,
        kind: int,
        request: int,
        *,
        number: int = 0,
        meta: Mapping[str, Any] | None = None,
        templates: Outgoing | None = None,
    ) -> tuple[Bytes, ...]:
        """Return a frame with tensors, in pieces; the large ones lie in shared memory, where there is some.

        What a handler has made there by `context.empty` is not copied if nobody but `encoded` holds it any more.

        Raises:
            WireError: the head, the body or the meta is beyond its cap.
        """
        memory = self.memory
        if memory is not None and goes_shared(encoded):
            placed = memory.place(encoded)
            return placed.message(
                encoded, kind, request, number=number, meta=meta, most=self.most_body, templates=templates
            )
        return encoded.message(kind, request, number=number, meta=meta, most=self.most_body, templates=templates)

    def stopped(self, request: int) -> Failure:
        """Return why a request was interrupted: cancelled, or beyond a limit of the version."""
        return self._marked(self.limits.stopped(request))

    def failed(self, error: BaseException, doing: str = "in the handler") -> Failure:
        """Return what the handler's error is: its own, or a limit that the kernel has held."""
        return self._marked(self.limits.failure(error, "model", doing))

    def unreadable(self, error: BaseException) -> Failure:
        """Return why there are no inputs: they are not as they must be, there is no memory for them, or it is said already."""
        if isinstance(error, Failure):
            return error
        if not isinstance(error, (BodyDropped, MemoryError)):
            return Failure("input", "input-invalid", str(error))
        most, text = self.limits.memory, str(error) or "there is no memory for the inputs"
        if most is not None:
            return Failure(
                "limit", "memory", f"the inputs do not fit into what the limit of {most} bytes leaves: {text}"
            )
        return Failure("busy", "out-of-memory", text)

    def _marked(self, failure: Failure) -> Failure:
        """Say of a failure whether it is this worker's last."""
        if self.runner is not None and self.runner.ended:
            failure.ends = True
        return failure

    def frames(self) -> Iterator[Frame]:
        """Yield the frames to be served, in order, those that were set aside first; ends with the driver's end."""
        while True:
            if self._set_aside:
                kept = self._set_aside.popleft()
                self._aside_bytes -= size_of(kept)
                yield kept
                del kept
                continue
            source = self.source
            if self.shortcut is not None and source.clear:
                self.shortcut(source)
            received = source.next()
            if received is None:
                return
            yield received

    def next_frame(self, request: int) -> Frame | None:
        """Return the next part or credit of the request that runs; None when the driver is gone, or about to.

        What is for others is set aside until that request is done. The wait, and nothing else, may be interrupted.

        Raises:
            WireError: what comes is no frame, or more than was asked for.
        """
        aside, interrupts, source = self._set_aside, self.interrupts, self.source
        at = 0
        while True:
            while at < len(aside):
                received = aside[at]
                if received.request == request and received.kind in _OF_A_REQUEST:
                    del aside[at]
                    self._aside_bytes -= size_of(received)
                    return received
                if received.kind == Kind.SHUTDOWN or (received.kind == Kind.ERROR and not received.request):
                    return None
                at += 1
            source.wait()
            held = interrupts.hold()  # a frame that was read must not be lost
            try:
                following = source.next()
                if following is not None:
                    self._keep(following, request)
            finally:
                if held:
                    interrupts.release()
            if following is None:
                return None

    def _keep(self, received: Frame, running: int) -> None:
        """Set a frame aside, if it is not one too many."""
        kind, aside = received.kind, self._set_aside
        if kind in _OF_A_REQUEST and received.request < running:
            return  # of a request that is over
        most = MOST_SET_ASIDE_BYTES
        full = len(aside) >= MOST_SET_ASIDE or self._aside_bytes >= most
        # what runs by handle is here already, and there are no more of them than handles
        if full and kind in (Kind.INFER, Kind.SEAL) and not received.flags & Flag.HANDLE:
            failure = Failure("busy", "queue-full", f"{len(aside)} requests wait in this worker already")
            self.channel.send(error_frame(failure, received.request))
        elif len(aside) >= 4 * MOST_SET_ASIDE or self._aside_bytes >= 4 * most:
            raise WireError(f"{len(aside)} frames wait: more were sent than were asked for")
        elif kind == Kind.CANCEL:  # it and a ping come here where there is one stream only
            self.interrupts.cancel(received.request)
        elif kind == Kind.PING:
            self.channel.send(self.pulse.pong(received))
        else:
            aside.append(received)
            self._aside_bytes += size_of(received)
