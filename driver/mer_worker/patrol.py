"""The thread that reads on while the main thread computes, where pings and cancels come over the one stream there is.

While the main thread reads, it looks in now and then; once it finds it away, it waits for the stream in its place, until the
main thread is back. So a worker over SSH hears a cancel, and the end of its driver, as one beside the driver does; a small call
is over before this thread has noticed it.
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import termios
import threading
import time

from mer_worker.control import Hearing
from mer_worker.failures import Failure, error_frame
from mer_worker.wire import Flag, Frame, Kind, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from mer_worker.backlog import Backlog
    from mer_worker.cache import Cache
    from mer_worker.channel import Channel
    from mer_worker.control import Ending, Pulse
    from mer_worker.decoder import Decoder
    from mer_worker.interrupts import Interrupts
    from mer_worker.source import SharedSource

LOOK_SECONDS = 0.05
"""Between two looks at a main thread that has had something to do within ACTIVE_SECONDS: so late may a cancel be heard."""
IDLE_LOOK_SECONDS = 0.25
ACTIVE_SECONDS = 1.0

_LOOK_MILLISECONDS = 250
"""How often it is looked whether the driver is there still, while the stream is waited for."""

_LOOKS_WITHIN_SILENCE = 4
"""How often it is looked for a driver's silence within the time that is one."""

_LEAVING_SECONDS = 5.0
"""What the main thread has to end the model and itself after a shutdown: the end of the stream then says nothing new."""

_REFUSABLE = frozenset({Kind.INFER, Kind.SEAL})
"""What may be answered as busy: the others are few, or belong to a request that is under way and has credit for them.

A run by handle may not: its inputs are here, and there are no more of them than handles."""


class Patrol(Hearing):
    """The thread over the one stream."""

    name = "mer-patrol"

    def __init__(
        self,
        source: SharedSource,
        decoder: Decoder,
        backlog: Backlog,
        answers: Channel,
        interrupts: Interrupts,
        pulse: Pulse,
        ending: Ending,
        *,
        cache: Optional[Cache],
        silence: float,
    ) -> None:
        """Read `source` while nobody else does; `cache` hears of cancels, which may be of what is pushed by digest.

        After `silence` seconds a driver that says nothing is taken for gone; 0: only the end of its stream tells that.
        """
        super().__init__(answers, ending)
        self._source = source
        self._decoder = decoder
        self._backlog = backlog
        self._interrupts = interrupts
        self._pulse = pulse
        self._cache = cache
        self._silence = silence
        self._heard = time.monotonic()
        self._told_to_end = False

    def start(self) -> None:
        """Begin to listen, and to look for silence."""
        super().start()
        if self._silence:
            threading.Thread(target=self._watch, name="mer-silence", daemon=True).start()

    def _watch(self) -> None:
        """End the worker once nothing more comes from its driver.

        A thread of its own: while the main thread sends a large answer the other one waits behind it to answer a ping. What
        the driver goes on to say is then read by nobody, and seen only as bytes that wait.
        """
        unread, changed = 0, time.monotonic()
        while True:
            time.sleep(self._silence / _LOOKS_WITHIN_SILENCE)
            now, waiting = time.monotonic(), _unread(self._source.descriptor)
            if waiting != unread:
                unread, changed = waiting, now
            if now - max(changed, self._last) > self._silence:
                self._ending.now()

    @property
    def _last(self) -> float:
        """When something of the driver was read, on the monotonic clock."""
        return max(self._source.heard, self._pulse.since, self._heard)

    def _listen(self) -> None:
        source, poll, parent = self._source, select.poll(), os.getppid()
        poll.register(source.descriptor, select.POLLIN)
        while True:
            if os.getppid() != parent:
                return
            if source.reading:
                active = time.monotonic() - self._last < ACTIVE_SECONDS
                time.sleep(LOOK_SECONDS if active else IDLE_LOOK_SECONDS)
            elif poll.poll(_LOOK_MILLISECONDS):
                with source.other:
                    # asked again: the main thread may have taken what there was, and a read that blocks sees no silence
                    if not source.reading and poll.poll(0) and not self._read():
                        if self._told_to_end:
                            time.sleep(_LEAVING_SECONDS)
                        return

    def _read(self) -> bool:
        """Take what has come; False at the end. Raises: WireError."""
        count = os.readv(self._source.descriptor, (self._decoder.buffer(),))
        self._heard = time.monotonic()
        for frame in self._decoder.received(count) if count else ():
            kind = frame.kind
            if kind == Kind.PING:
                self._answers.send(self._pulse.pong(frame))
            elif kind == Kind.CANCEL:
                self._interrupts.cancel(frame.request)
                if self._cache is not None:
                    self._cache.cancel(frame)
            elif not self._source.pushes(frame):
                self._hand_on(frame)
        return bool(count)

    def _hand_on(self, frame: Frame) -> None:
        """Let the main thread have a frame, if it is not too far behind."""
        backlog = self._backlog
        self._told_to_end = self._told_to_end or frame.kind == Kind.SHUTDOWN
        if backlog.full and frame.kind in _REFUSABLE and not frame.flags & Flag.HANDLE:
            text = f"{len(backlog)} requests wait in this worker already"
            self._answers.send(error_frame(Failure("busy", "queue-full", text), frame.request))
        elif backlog.overflowing:
            raise WireError(f"{len(backlog)} frames wait: more were sent than were asked for")
        else:
            backlog.put(frame)


def _unread(descriptor: int) -> int:
    """Return how many bytes wait to be read."""
    count = array.array("i", [0])
    try:
        fcntl.ioctl(descriptor, termios.FIONREAD, count)
    except OSError:  # of a kind that does not tell
        return 0
    return count[0]
