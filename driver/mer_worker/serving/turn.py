"""Whose turn the model's thread is: a load's, a request's, a batch's, and how long it took."""

from __future__ import annotations

import time

from mer_worker.wire import U32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mer_worker.conversation import Conversation


class Turn:
    """The stretch of the author's code that runs: it may be interrupted, and what it prints is the request's."""

    def __init__(self, conversation: Conversation) -> None:
        self._logs = conversation.logs
        self._pulse = conversation.pulse
        self._interrupts = conversation.interrupts
        self._began = self._finished = 0.0

    def start(self, request: int) -> None:
        """Begin. Raises: Cancelled (it was cancelled before)."""
        self._logs.begin(request)
        self._pulse.since = self._began = time.monotonic()
        self._pulse.request = request
        self._interrupts.begin(request)

    def stop(self) -> None:
        """End; may be called again, where the end itself was interrupted."""
        self._interrupts.end()
        self._finished = time.monotonic()
        self._pulse.request = 0
        self._logs.end()

    def microseconds(self) -> int:
        """Return how long it took."""
        return min(int(1e6 * (self._finished - self._began)), U32)
