"""Sealed inputs: sent early and staged by the runner, so that the run by handle finds them where the model wants them.

They are held until they are run or released, and no longer than KEEP_SECONDS: what waits on a GPU is lacking there. Each way
of serving stages them, and lets go of them, where it runs the handler: a library of the model's may not survive another thread.
"""

from __future__ import annotations

import threading
import time

from mer_worker.failures import Failure, error_frame
from mer_worker.interrupts import Cancelled
from mer_worker.layout import NO_META, open_frame
from mer_worker.tensors import values_of
from mer_worker.tracing import asked
from mer_worker.wire import Flag, Frame, Kind, WireError, frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Optional

    from mer_worker.conversation import Conversation
    from mer_worker.runners import Runner
    from mer_worker.serving.turn import Turn

MOST_SEALED = 64
"""Handles at a time: more than a caller prepares ahead, few enough to be no second queue."""

MOST_SEALED_BYTES = 1 << 30
"""Of inputs, as they came: what staging makes of them is as large, as a rule."""

KEEP_SECONDS = 600.0
"""After that a handle is forgotten, at the latest with the next one. A driver releases earlier what it wants no more."""

SEALING = "while inputs were sealed"
"""What the author's code did, in the words of its failures."""


class Seals:
    """What one worker holds for its driver. Any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """What it guards is let go of outside of it: a destructor of the author's may take its time."""
        self._coming: dict[str, int] = {}
        """Bytes of inputs that are being staged, by handle."""
        self._held: dict[str, tuple[Any, int, float]] = {}
        """Staged inputs, their bytes, and until when they are kept, by handle."""
        self._last = 0

    def reserve(self, size: int) -> str:
        """Return a handle for that many bytes of inputs, which are to be staged now.

        Raises:
            Failure: as much is sealed as may be.
        """
        with self._lock:
            forgotten = self._forget_old()
            places = len(self._held) + len(self._coming)
            if places >= MOST_SEALED:
                raise Failure("busy", "too-much-sealed", f"{places} inputs are sealed already")
            held = sum(size for _, size, _ in self._held.values()) + sum(self._coming.values())
            if held + size > MOST_SEALED_BYTES:
                raise Failure("busy", "too-much-sealed", f"{held} bytes of inputs are sealed already")
            self._last += 1
            handle = f"sealed-{self._last}"
            self._coming[handle] = size
        del forgotten
        return handle

    def keep(self, handle: str, staged: Any) -> None:
        """Hold what was staged."""
        with self._lock:
            self._held[handle] = staged, self._coming.pop(handle), time.monotonic() + KEEP_SECONDS

    def give_up(self, handle: str) -> None:
        """Free the place of what could not be staged."""
        with self._lock:
            self._coming.pop(handle, None)

    def take(self, handle: object) -> Any:
        """Return what a handle stands for, and forget it.

        Raises:
            Failure: there is no such handle, or no more.
        """
        with self._lock:
            forgotten = self._forget_old()
            found = self._held.pop(handle, None) if isinstance(handle, str) else None
        del forgotten
        if found is None:
            raise Failure(
                "input", "no-handle", "nothing is sealed under this handle: it was used, released or forgotten"
            )
        return found[0]

    def opened(self, received: Frame) -> tuple[Any, Mapping[str, Any]]:
        """Return what a request by handle is to get, and its meta.

        Raises:
            WireError: it is no such request. Failure: as `take`.
        """
        fields = received.fields()
        inputs, meta = self.take(fields.get("handle")), fields.get("meta", NO_META)
        if type(meta) is not dict and meta is not NO_META:
            raise WireError("a meta is a JSON object")
        return inputs, meta

    def spare(self, received: Optional[Frame]) -> None:
        """Forget what a request was to use that is never run: its handle is used up all the same."""
        if received is not None and by_handle(received):
            try:
                self.opened(received)
            except (WireError, Failure):
                pass

    def release(self, received: Frame) -> bytes:
        """Forget a handle, and return the frame that answers."""
        request = received.request
        try:
            self.take(received.fields().get("handle"))
        except WireError as error:
            return error_frame(Failure("input", "input-invalid", str(error)), request)
        except Failure as failure:
            return error_frame(failure, request)
        return frame(Kind.RESULT, request=request)

    def _forget_old(self) -> list[Any]:
        """Return what was held for too long, and hold it no more. The lock is held."""
        now = time.monotonic()
        return [self._held.pop(handle) for handle in [one for one, held in self._held.items() if held[2] < now]]


class MainThreadSeals:
    """Stages inputs between two requests, where one thread does everything."""

    def __init__(self, runner: Runner, conversation: Conversation, turn: Turn) -> None:
        self._runner = runner
        self._conversation = conversation
        self._turn = turn
        self._seals = Seals()
        self.opened = self._seals.opened

    def take(self, received: Frame) -> None:
        """Seal inputs, or release them."""
        if received.kind == Kind.SEAL:
            self._seal(received)
        else:
            self._conversation.channel.send(self._seals.release(received))

    def _seal(self, received: Frame) -> None:
        """Stage a request's inputs, and answer with their handle."""
        request, channel, turn = received.request, self._conversation.channel, self._turn
        try:
            layout, meta, segments = open_frame(received)
            inputs = values_of(layout, segments, self._runner.arrays, writable=False)
            handle = self._seals.reserve(sum(map(len, segments)))
        except (WireError, MemoryError, Failure) as error:
            channel.send(error_frame(self._conversation.unreadable(error), request))
            return
        del segments
        received.body = b""  # only the inputs hold it now
        spans = asked(meta) if meta else None
        try:
            turn.start(request)
            try:
                staged = self._runner.seal(inputs)
            finally:
                turn.stop()
            del inputs
            self._seals.keep(handle, staged)
        except BaseException as error:  # noqa: BLE001 - the author's code may raise anything, SystemExit too
            turn.stop()  # a cancel may have come on the way there
            self._seals.give_up(handle)
            conversation, told = self._conversation, None if spans is None else spans.ended("seal")
            failure = (
                conversation.stopped(request) if isinstance(error, Cancelled) else conversation.failed(error, SEALING)
            )
            channel.send(error_frame(failure, request, number=turn.microseconds(), meta=told))
            return
        told = None
        if spans is not None:
            spans.step("seal")
            told = spans.meta()
        channel.send(sealed_frame(handle, request, number=turn.microseconds(), meta=told))


def by_handle(received: Frame) -> bool:
    """Whether a request's inputs are sealed ones."""
    return received.kind == Kind.INFER and bool(received.flags & Flag.HANDLE)


def sealed_frame(handle: str, request: int, *, number: int, meta: Optional[Mapping[str, Any]]) -> bytes:
    """Return the frame that answers a seal."""
    fields: dict[str, Any] = {"handle": handle}
    if meta:
        fields["meta"] = meta
    return frame(Kind.RESULT, fields, request=request, number=number)
