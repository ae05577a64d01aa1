"""What a worker writes to its standard error: passed on up to a bound for each request, its end kept for errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mer.meal.calls import Calls, LogCallback
from mer_worker.wire import MAX_REQUEST_LOG_BYTES

_TAIL_BYTES = 2048
"""The end of the log that an error about the worker's loss quotes."""


class WorkerLog:
    """The log of one worker that is tied to no request, and the way of every log to its listener."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        calls: Calls,
        listener: LogCallback | None,
        when_dropped: Callable[[], None],
    ) -> None:
        """Bound what comes between one of `calls` and the next; after `when_dropped`, that one is to say `renew`."""
        self.listener = listener
        """Takes what is tied to no request."""
        self._loop = loop
        self._calls = calls
        self._when_dropped = when_dropped
        self._request = 0
        self._left = MAX_REQUEST_LOG_BYTES
        self._dropped = 0
        self._tail = b""

    def add(self, text: bytes) -> None:
        """Pass text on, as far as the bound allows."""
        self._tail = (self._tail + text)[-_TAIL_BYTES:]
        if self._calls.last != self._request:
            self._request = self._calls.last
            self.renew()
        if len(text) > self._left:
            self._dropped += len(text) - self._left
            text = text[: self._left]
            self._when_dropped()
        self._left -= len(text)
        if text:
            self.tell(self.listener, "stderr", "", text)

    def renew(self) -> None:
        """Begin a new bound, and say what the last one has dropped."""
        self._left = MAX_REQUEST_LOG_BYTES
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self.tell(self.listener, "stderr", "", f"… {dropped} bytes dropped\n".encode())

    def tell(self, listener: LogCallback | None, stream: str, level: str, text: bytes) -> None:
        """Pass a log on, by the loop: a listener that raises here would take the frames after it along."""
        if listener is not None:
            self._loop.call_soon(listener, stream, level, text)

    def quoted(self) -> str:
        """Return the log's end, where it helps to understand the worker's."""
        tail = self._tail.decode("utf-8", "replace").strip()
        return f"; its log ends:\n{tail}" if tail else ""
