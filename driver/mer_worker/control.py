"""The listening thread: answers pings and takes cancels while the model computes, and sees the driver's end.

On one machine it has a channel of its own, where it blocks in the kernel and costs a call nothing. Over a single stream
(SSH) it reads everything and hands on what is not its own. Either way a worker whose driver is gone ends at once, with
everything that it forked, even while the main thread computes.
"""

from __future__ import annotations

import os
import select
import threading
import time

from mer_worker.channel import Channel
from mer_worker.failures import Failure, error_frame
from mer_worker.interrupts import Interrupts
from mer_worker.orphans import kill_group, sweep
from mer_worker.shared import PERIOD_SECONDS
from mer_worker.wire import Decoder, Frame, Kind, WireError, dump, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Optional

    from mer_worker.backlog import Backlog
    from mer_worker.cache import Cache

_LOOK_MILLISECONDS = 5000
"""How often it is looked whether the parent is still the driver: a forked copy of it may hold the channel open."""

_LEAVING_SECONDS = 5.0
"""What the main thread has to end the model and itself after a shutdown: the end of the stream then says nothing new."""

_REFUSABLE = frozenset({Kind.INFER, Kind.SEAL})
"""What may be answered as busy: the others are few, or belong to a request that is under way and has credit for them."""

_PUSHED = frozenset({Kind.HAVE, Kind.PUT})

_MOST_TOLD = 64
"""Requests that a pong tells of: enough to see which one hangs."""


class Pulse:
    """What a pong says of the model: which requests it is busy with, and since when."""

    def __init__(self) -> None:
        self.request = 0
        self.since = 0.0
        self.several: Optional[Callable[[], list[tuple[int, float]]]] = None
        """Tells each request that runs and since when, where several do at once."""

        self.thread_of: Optional[Callable[[int], int]] = None
        """Tells the thread in which a request runs alone."""

    def running(self) -> list[tuple[int, float]]:
        """Return each request that runs, and since when (monotonic seconds), the oldest first."""
        if self.several is not None:
            return self.several()
        request = self.request
        return [(request, self.since)] if request else []

    def pong(self, ping: Frame) -> bytes:
        """Return the answer to a ping."""
        running, now = self.running(), time.monotonic()
        told = [
            {"request": request, "milliseconds": int(1e3 * (now - since))} for request, since in running[:_MOST_TOLD]
        ]
        fields: dict[str, object] = {"clock": int(1e6 * now)}
        if told:
            fields["busy"] = told[0]
        if self.several is not None:
            fields["running"] = told
        return pack(Kind.PONG, dump(fields), request=ping.request)


class Listener:
    """The thread. `others` gets the frames that are not for it; on a channel of its own there are none."""

    def __init__(
        self,
        descriptor: int,
        decoder: Decoder,
        answers: Channel,
        interrupts: Interrupts,
        pulse: Pulse,
        ending: Ending,
        others: Optional[Backlog] = None,
    ) -> None:
        self._descriptor = descriptor
        self._decoder = decoder
        self._answers = answers
        self._interrupts = interrupts
        self._pulse = pulse
        self._ending = ending
        self._others = others
        self.tidy: Optional[Callable[[], None]] = None
        """Is called every few seconds, whatever the main thread does."""
        self.cache: Optional[Cache] = None
        """Takes what is pushed by digest, whatever the main thread does; None: that is no frame that is known."""
        self._greeted = False
        self._told_to_end = False
        self.silence = 0.0
        """Seconds after which a driver that says nothing is taken for gone; 0: only the end of its stream tells that."""

    def start(self) -> None:
        """Begin to listen."""
        threading.Thread(target=self._run, name="mer-listener", daemon=True).start()

    def _run(self) -> None:
        try:
            self._listen()
        except WireError as error:
            self._answers.send(error_frame(Failure("protocol", "bad-frame", str(error)), 0))
        except OSError:
            pass
        finally:
            self._ending.now()

    def _listen(self) -> None:
        poll, parent, tidied, heard = select.poll(), os.getppid(), time.monotonic(), time.monotonic()
        poll.register(self._descriptor, select.POLLIN)
        while True:
            ready = poll.poll(_LOOK_MILLISECONDS if not self.silence else min(_LOOK_MILLISECONDS, 250 * self.silence))
            if self.tidy is not None and time.monotonic() - tidied >= PERIOD_SECONDS:
                self.tidy()
                tidied = time.monotonic()
            if not ready:
                if os.getppid() != parent or (self.silence and time.monotonic() - heard > self.silence):
                    return
                continue
            heard = time.monotonic()
            count = os.readv(self._descriptor, (self._decoder.buffer(),))
            if not count:
                if self._told_to_end:
                    time.sleep(_LEAVING_SECONDS)
                return
            for frame in self._decoder.received(count):
                if frame.kind == Kind.PING:
                    self._answers.send(self._pulse.pong(frame))
                elif frame.kind == Kind.CANCEL:
                    self._interrupts.cancel(frame.request)
                    if self.cache is not None:
                        self.cache.cancel(frame)
                    if self._others is not None and self._interrupts.several is None:
                        self._others.put(frame)  # wakes a main thread that waits for a part or for credit
                elif self.cache is not None and self._greeted and frame.kind in _PUSHED:
                    self.cache.take(frame)
                elif self._others is not None:
                    self._hand_on(frame, self._others)

    def _hand_on(self, frame: Frame, others: Backlog) -> None:
        """Let the main thread have a frame, if it is not too far behind."""
        if frame.kind == Kind.SHUTDOWN:
            self._told_to_end = True
        elif frame.kind == Kind.HELLO:
            self._greeted = True
        waiting = len(others)
        if others.full and frame.kind in _REFUSABLE:
            text = f"{waiting} requests wait in this worker already"
            self._answers.send(error_frame(Failure("busy", "queue-full", text), frame.request))
        elif others.overflowing:
            raise WireError(f"{waiting} frames wait: more were sent than were asked for")
        else:
            others.put(frame)


class Ending:
    """The end of a worker whose driver is gone: nothing that it forked or wrote for itself stays."""

    def __init__(self, marker: str, scratch: str) -> None:
        self._marker = marker
        self._scratch = scratch

    def now(self) -> None:
        """End this process and its children, without a word to the main thread."""
        try:
            if self._marker:
                sweep(self._marker, os.getpid())
            if self._scratch:
                import shutil

                shutil.rmtree(self._scratch, ignore_errors=True)
            if os.getpgrp() == os.getpid():  # else the group is somebody else's
                kill_group(os.getpid())
        finally:
            os._exit(1)
