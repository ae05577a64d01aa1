"""The listening thread: answers pings and takes cancels while the model computes, and sees the driver's end.

It has a channel of its own, where it blocks in the kernel and costs a call nothing (over a single stream mer_worker.patrol does
this). A worker whose driver is gone ends at once, with everything that it forked, even while the main thread computes.
"""

from __future__ import annotations

import os
import select
import threading
import time

from mer_worker.channel import Channel
from mer_worker.decoder import Decoder
from mer_worker.failures import Failure, error_frame
from mer_worker.interrupts import Interrupts
from mer_worker.orphans import kill_group, sweep
from mer_worker.shared import PERIOD_SECONDS
from mer_worker.wire import Frame, Kind, WireError, dump, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Optional


_LOOK_MILLISECONDS = 5000
"""How often it is looked whether the parent is still the driver: a forked copy of it may hold the channel open."""

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
        return self.alone() if self.several is None else self.several()

    def alone(self) -> list[tuple[int, float]]:
        """Return the request that the main thread runs by itself, if any."""
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


class Hearing:
    """A thread that hears the driver beside the main thread, and ends the worker when the driver is gone."""

    name = ""

    def __init__(self, answers: Channel, ending: Ending) -> None:
        self._answers = answers
        self._ending = ending

    def start(self) -> None:
        """Begin to listen."""
        threading.Thread(target=self._run, name=self.name, daemon=True).start()

    def _listen(self) -> None:
        """Go on until the driver is gone. Raises: WireError, OSError."""
        raise NotImplementedError

    def _run(self) -> None:
        try:
            self._listen()
        except WireError as error:
            self._answers.send(error_frame(Failure("protocol", "bad-frame", str(error)), 0))
        except OSError:
            pass
        finally:
            self._ending.now()


class Listener(Hearing):
    """The thread on a channel of its own."""

    name = "mer-listener"

    def __init__(
        self,
        descriptor: int,
        answers: Channel,
        interrupts: Interrupts,
        pulse: Pulse,
        ending: Ending,
        *,
        tidy: Optional[Callable[[], None]] = None,
    ) -> None:
        """Listen on `descriptor`; `tidy` is called every few seconds, whatever the main thread does."""
        super().__init__(answers, ending)
        self._descriptor = descriptor
        self._decoder = Decoder(preamble=False)
        self._interrupts = interrupts
        self._pulse = pulse
        self._tidy = tidy

    def _listen(self) -> None:
        poll, parent, tidied = select.poll(), os.getppid(), time.monotonic()
        poll.register(self._descriptor, select.POLLIN)
        while True:
            ready = poll.poll(_LOOK_MILLISECONDS)
            if self._tidy is not None and time.monotonic() - tidied >= PERIOD_SECONDS:
                self._tidy()
                tidied = time.monotonic()
            if not ready:
                if os.getppid() != parent:
                    return
                continue
            count = os.readv(self._descriptor, (self._decoder.buffer(),))
            if not count:
                return
            for frame in self._decoder.received(count):
                if frame.kind == Kind.PING:
                    self._answers.send(self._pulse.pong(frame))
                elif frame.kind == Kind.CANCEL:
                    self._interrupts.cancel(frame.request)


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
