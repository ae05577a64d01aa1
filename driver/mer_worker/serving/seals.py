"""Sealed inputs: sent early and staged by the runner, so that the run by handle finds them where the model wants them.

They are held until they are run or released, and no longer than KEEP_SECONDS: what waits on a GPU is lacking there.
"""

from __future__ import annotations

import time

from mer_worker.failures import Failure, error_frame
from mer_worker.interrupts import Cancelled
from mer_worker.layout import open_frame
from mer_worker.tensors import values_of
from mer_worker.wire import Frame, Kind, WireError, frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mer_worker.conversation import Conversation
    from mer_worker.runners import Runner
    from mer_worker.serving.serial import Turn

MOST_SEALED = 64
"""Handles at a time: more than a caller prepares ahead, few enough to be no second queue."""

MOST_SEALED_BYTES = 1 << 30
"""Of inputs, as they came: what staging makes of them is as large, as a rule."""

KEEP_SECONDS = 600.0
"""After that a handle is forgotten, at the latest with the next one. A driver releases earlier what it wants no more."""


class Seals:
    """What one worker holds for its driver."""

    def __init__(self, runner: Runner, conversation: Conversation, turn: Turn) -> None:
        self._runner = runner
        self._conversation = conversation
        self._turn = turn
        self._held: dict[str, tuple[Any, int, float]] = {}
        """Staged inputs, their bytes, and until when they are kept, by handle."""
        self._last = 0

    def seal(self, received: Frame) -> None:
        """Stage a request's inputs, and answer with their handle."""
        request, channel, turn = received.request, self._conversation.channel, self._turn
        try:
            layout, _, segments = open_frame(received)
            size = sum(map(len, segments))
            inputs = values_of(layout, segments, self._runner.arrays, writable=False)
        except (WireError, MemoryError) as error:
            channel.send(error_frame(self._conversation.unreadable(error), request))
            return
        del segments
        received.body = b""  # only the inputs hold it now
        try:
            self._require_room(size)
        except Failure as busy:
            channel.send(error_frame(busy, request))
            return
        try:
            turn.start(request)
            try:
                staged = self._runner.seal(inputs)
            finally:
                turn.stop()
            del inputs
        except Cancelled:
            turn.stop()  # it may have come on the way there
            channel.send(error_frame(self._conversation.stopped(request), request, number=turn.microseconds()))
            return
        except BaseException as error:  # noqa: BLE001 - the author's code may raise anything, SystemExit too
            failure = self._conversation.limits.failure(error, "model", "while inputs were sealed")
            channel.send(error_frame(failure, request, number=turn.microseconds()))
            return
        self._last += 1
        handle = f"sealed-{self._last}"
        self._held[handle] = staged, size, time.monotonic() + KEEP_SECONDS
        channel.send(frame(Kind.RESULT, {"handle": handle}, request=request, number=turn.microseconds()))

    def take(self, handle: object) -> Any:
        """Return what a handle stands for, and forget it.

        Raises:
            Failure: there is no such handle, or no more.
        """
        self._forget_old()
        found = self._held.pop(handle, None) if isinstance(handle, str) else None
        if found is None:
            raise Failure(
                "input", "no-handle", "nothing is sealed under this handle: it was used, released or forgotten"
            )
        return found[0]

    def release(self, received: Frame) -> None:
        """Forget a handle."""
        channel, request = self._conversation.channel, received.request
        try:
            self.take(received.fields().get("handle"))
        except WireError as error:
            channel.send(error_frame(Failure("input", "input-invalid", str(error)), request))
        except Failure as failure:
            channel.send(error_frame(failure, request))
        else:
            channel.send(frame(Kind.RESULT, request=request))

    def _require_room(self, size: int) -> None:
        self._forget_old()
        if len(self._held) >= MOST_SEALED:
            raise Failure("busy", "too-much-sealed", f"{len(self._held)} inputs are sealed already")
        held = sum(size for _, size, _ in self._held.values())
        if held + size > MOST_SEALED_BYTES:
            raise Failure("busy", "too-much-sealed", f"{held} bytes of inputs are sealed already")

    def _forget_old(self) -> None:
        now = time.monotonic()
        for handle in [handle for handle, (_, _, until) in self._held.items() if until < now]:
            del self._held[handle]
