"""The lending end of a conversation in frames: what a worker answers, answered by this MER."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
from collections.abc import Coroutine, Sequence
from typing import Any

from mer.api import Mer
from mer.core.actor import Guest
from mer.core.errors import MerError
from mer.faces.serve_ssh.failures import failure_of, not_lent
from mer.faces.serve_ssh.lent import find
from mer.faces.serve_ssh.pipes import Output
from mer.faces.serve_ssh.serving import Serving
from mer_worker.conversation import Peer
from mer_worker.failures import Failure, error_frame
from mer_worker.wire import (
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    OLDEST_VERSION,
    PREAMBLE,
    VERSION,
    Flag,
    Frame,
    Kind,
    VersionMismatch,
    WireError,
    frame,
)

CAPABILITIES = ("in-band", "reference", "limits", "stream")
"""`limits`: those of a version are held by the workers of this MER, who have them from the same package."""

MOST_REQUESTS = 64
"""At once from one guest; the pool behind has fewer workers, and each request may have a gigabyte of inputs."""

MOST_BYTES = MAX_BODY_BYTES
"""Of the inputs of all requests that run, beyond which the next one is told to come later."""

MOST_CANCELLED_AHEAD = 1024
"""Requests that are cancelled before they come: beyond it a guest says nonsense."""


SILENCE_SECONDS = 150.0
"""After which a guest's MER, which pings every 15 s or so once it has begun, is taken to be gone: a network that went
silent tells sshd nothing for hours."""


class Conversation:
    """One guest's MER, from its hello to its end."""

    def __init__(self, mer: Mer, guest: Guest, output: Output, *, silence_seconds: float = SILENCE_SECONDS) -> None:
        self._silence_seconds = silence_seconds
        self._heard = 0.0
        self._watching: asyncio.TimerHandle | None = None
        self._mer = mer
        self._guest = guest
        self._output = output
        self._loop = asyncio.get_running_loop()
        self._peer: Peer | None = None
        self._reference: str | None = None
        """What was loaded, as NAME:VERSION."""
        self._loading = False
        self._running: dict[int, Serving] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._cancelled: set[int] = set()
        self._last = 0
        self.over: asyncio.Future[None] = self._loop.create_future()
        """Done when nothing more is to be said."""
        self.bug: BaseException | None = None
        """What nobody expected; the conversation ends by it."""

    def begin(self) -> None:
        """Greet the guest."""
        hello = {
            "protocol": {"min": OLDEST_VERSION, "max": VERSION},
            "capabilities": list(CAPABILITIES),
            "limits": {"head": MAX_HEAD_BYTES, "body": MAX_BODY_BYTES},
            "runners": [],
            "pid": os.getpid(),
            "python": platform.python_version(),
        }
        self._output.say(PREAMBLE, frame(Kind.HELLO, hello))

    def take(self, came: Sequence[Frame] | WireError) -> None:
        """Take frames, or learn that what came is none."""
        if self._output.closed:
            self._end()
        if self.over.done():
            return
        self._heard = self._loop.time()
        try:
            if isinstance(came, WireError):
                raise came
            for received in came:
                if self.over.done():
                    return
                self._take(received)
        except WireError as error:
            code = "version" if isinstance(error, VersionMismatch) else "bad-frame"
            self._output.say(error_frame(Failure("protocol", code, str(error)), 0))
            self._end()

    async def aclose(self) -> None:
        """Cancel what still runs, and wait until its end is on record."""
        self._end()
        if self._watching is not None:
            self._watching.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _end(self) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def _take(self, received: Frame) -> None:
        request = received.request
        if self._peer is None:
            if received.kind != Kind.HELLO:
                raise WireError("the first frame is no hello")
            self._peer = Peer(received.fields())
            return
        if received.template:
            raise WireError("a template, which was not offered")
        match received.kind:
            case Kind.LOAD:
                self._load(received)
            case Kind.INFER:
                self._infer(received)
            case Kind.PART | Kind.CREDIT:
                if serving := self._running.get(request):
                    serving.take(received)
            case Kind.CANCEL:
                self._cancel(request)
            case Kind.PING:
                self._output.murmur(frame(Kind.PONG, self._pulse(), request=request))
                if self._watching is None:
                    self._watch()
            case Kind.SHUTDOWN:
                self._end()
            case Kind.ERROR if not request:
                self._end()
            case Kind.HELLO:
                raise WireError("a second hello")
            case _:
                failure = Failure("protocol", "unknown-kind", f"frames of kind {received.kind} are not taken here")
                self._output.say(error_frame(failure, request))

    def _watch(self) -> None:
        """End the conversation once nothing was heard for too long."""
        left = self._heard + self._silence_seconds - self._loop.time()
        if left > 0:
            self._watching = self._loop.call_later(left, self._watch)
        else:
            self._end()

    # --- loading

    def _load(self, received: Frame) -> None:
        if self._loading:
            failure = Failure("protocol", "already-loaded", "one version a conversation")
            self._output.say(error_frame(failure, received.request))
            return
        self._loading = True
        self._spawn(self._find(received), "finding what is lent")

    async def _find(self, received: Frame) -> None:
        began = self._loop.time()
        try:
            fields = received.fields()
            reference = await find(self._mer, self._guest, fields.get("package"), fields.get("weights"))
            if reference is None:
                error = not_lent()
                await self._mer.refuse(f"package {fields.get('package')}", error)
                raise error
        except (MerError, WireError) as error:
            self._loading = False
            self._output.say(error_frame(failure_of(error), received.request))
            return
        self._reference = reference
        took = round((self._loop.time() - began) * 1e6)
        self._output.say(frame(Kind.RESULT, {"tensors": []}, request=received.request, number=took))

    # --- requests

    def _infer(self, received: Frame) -> None:
        request = received.request
        failure = self._fault(received)
        if request <= self._last:
            raise WireError(f"request {request} after request {self._last}")
        self._last = request
        if request in self._cancelled:
            self._cancelled.discard(request)
            failure = Failure("cancelled", "cancelled", "cancelled before it came")
        if failure is not None:
            self._output.say(error_frame(failure, request))
            return
        assert self._reference is not None
        assert self._peer is not None
        serving = Serving(self._mer, self._reference, received, self._output, most_body=self._peer.most_body)
        self._running[request] = serving
        serving.task = self._spawn(serving.run(), f"request {request} of a guest")
        serving.task.add_done_callback(lambda _: self._running.pop(request, None))

    def _fault(self, received: Frame) -> Failure | None:
        if self._reference is None:
            return Failure("protocol", "not-loaded", "nothing is loaded")
        if received.flags & (Flag.HANDLE | Flag.SHARED):
            return Failure("protocol", "unknown-flag", "neither handles nor shared memory are taken here")
        held = sum(serving.size for serving in self._running.values())
        if len(self._running) >= MOST_REQUESTS or (held and held + len(received.body) > MOST_BYTES):
            return Failure("busy", "queue-full", f"{len(self._running)} requests of yours run here already")
        return None

    def _cancel(self, request: int) -> None:
        serving = self._running.get(request)
        if serving is not None:
            serving.cancel()
        elif request > self._last:
            if len(self._cancelled) >= MOST_CANCELLED_AHEAD:
                raise WireError("more is cancelled than is asked for")
            self._cancelled.add(request)

    def _pulse(self) -> dict[str, object]:
        """Return what a pong tells: which requests run, the oldest first."""
        now = self._loop.time()
        told = [
            {"request": request, "milliseconds": int(1e3 * (now - serving.began))}
            for request, serving in self._running.items()
        ]
        return {"busy": told[0], "running": told} if told else {}

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        with contextlib.suppress(asyncio.CancelledError):
            if error := task.exception():
                self.bug = self.bug or error
                self._end()
