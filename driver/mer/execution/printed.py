"""What the model printed while an invocation ran: passed on as it comes, its end kept for the record."""

from __future__ import annotations

from mer.audit.bodies import MAX_MODEL_LOG, ModelLog
from mer.meal.calls import LogCallback

_KEPT_BYTES = 4 * MAX_MODEL_LOG
"""A character has at most four: so many bytes hold as many characters as a record takes."""


class Printed:
    """A listener of one invocation's prints."""

    def __init__(self, listener: LogCallback | None, *, kept: bool) -> None:
        """Pass prints on to `listener`, and keep their end if it is to be `kept`."""
        self.listener = listener
        """Hears them too."""
        self._kept = kept
        self._size = 0
        self._end = bytearray()

    def __call__(self, stream: str, level: str, text: bytes) -> None:
        """Take a piece of a log (mer.meal.calls.LogCallback)."""
        self._size += len(text)
        if self._kept:
            self._end += text
            del self._end[:-_KEPT_BYTES]
        if self.listener is not None:
            self.listener(stream, level, text)

    def end(self) -> ModelLog | None:
        """Return what a record says of it, from the beginning of a line where it was cut; None if nothing is to be said."""
        if not self._end:
            return None
        text = self._end.decode("utf-8", "replace")
        if len(text) > MAX_MODEL_LOG or self._size > len(self._end):
            text = text[-MAX_MODEL_LOG:]
            _, newline, rest = text.partition("\n")
            text = rest if newline and rest else text
        return ModelLog(bytes=self._size, text=text)
