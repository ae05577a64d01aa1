"""What everything that serves requests shares: the way in, the way out, and what may interrupt."""

from __future__ import annotations

from collections import deque

from mer_worker.wire import MAX_BODY_BYTES, agree, most_body

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from mer_worker.channel import Channel
    from mer_worker.control import Ending, Pulse
    from mer_worker.interrupts import Interrupts
    from mer_worker.logs import Logs
    from mer_worker.wire import Frame


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

    __slots__ = ("_frames", "_set_aside", "channel", "ending", "interrupts", "logs", "most_body", "peer", "pulse")

    def __init__(self, channel: Channel, interrupts: Interrupts, pulse: Pulse, logs: Logs, ending: Ending) -> None:
        self.channel = channel
        self.interrupts = interrupts
        self.pulse = pulse
        self.logs = logs
        self.ending = ending
        self.peer: Peer | None = None
        """None until its hello has come."""
        self.most_body = MAX_BODY_BYTES
        """Bytes of body that the driver takes."""
        self._frames: Iterator[Frame] = iter(())
        self._set_aside: deque[Frame] = deque()

    def greet(self, hello: Mapping[str, Any]) -> None:
        """Take the driver's hello. Raises: as Peer."""
        self.peer = Peer(hello)
        self.most_body = self.peer.most_body

    def follow(self, frames: Iterator[Frame]) -> None:
        """Take frames from there."""
        self._frames = frames

    def frames(self) -> Iterator[Frame]:
        """Yield the frames to be served, in order, those that were set aside first; ends with the driver's end."""
        while True:
            if self._set_aside:
                yield self._set_aside.popleft()
                continue
            received = next(self._frames, None)
            if received is None:
                return
            yield received

    def next_frame(self) -> Frame | None:
        """Read the next frame while a request runs; None when the driver is gone. What is not for it is to be set aside."""
        return next(self._frames, None)

    def set_aside(self, received: Frame) -> None:
        """Keep a frame for when the request that runs is done."""
        self._set_aside.append(received)
