"""What the model prints and logs, tied to the request that caused it, and bounded.

`sys.stdout` and `sys.stderr` become log frames while a request runs; what is written past them (from C, by a child, at
no request's time) goes to fd 2, which the driver reads as the worker's own log.
"""

from __future__ import annotations

import io
import os
import sys

from mer_worker.interrupts import Interrupts
from mer_worker.wire import MAX_LOG_FRAME_BYTES, MAX_REQUEST_LOG_BYTES, Kind, dump, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional, Protocol

    from mer_worker.channel import Channel

    class Several(Protocol):
        """Who tells the prints of several requests apart (mer_worker.serving.voices)."""

        def write(self, stream: str, text: bytes, level: str = "") -> None:
            """As Logs.write, for the request of the calling code."""

        def forget(self) -> None:
            """In a forked child: what it prints goes to fd 2."""


class Logs:
    """The log of the request that runs."""

    def __init__(self, channel: Channel, interrupts: Interrupts) -> None:
        self._channel = channel
        self._interrupts = interrupts
        self._streams: tuple[Any, ...] = ()
        self._heads: dict[tuple[str, str], bytes] = {}
        self.request = 0
        self._taken = self._dropped = 0
        self.used = False
        """Whether there is something for `end` to do."""
        self.most = MAX_REQUEST_LOG_BYTES
        """Bytes that are kept of one request's prints."""
        self.several: Optional[Several] = None
        """Tells the prints of several requests apart, where they run at once."""

    def install(self) -> None:
        """Put streams of ours in the place of sys.stdout and sys.stderr."""
        sys.stdout, sys.stderr = self._stream("stdout", 1), self._stream("stderr", 2)
        self._streams = (sys.stdout, sys.stderr)

    def follow_logging(self) -> None:
        """Send what `logging` gets with its level, if the model uses that module and has not set it up itself."""
        logging: Any = sys.modules.get("logging")
        if logging is None or logging.getLogger().handlers:
            return
        logs = self

        class Records(logging.Handler):  # type: ignore[misc,name-defined,unused-ignore]
            def emit(self, record: Any) -> None:
                logs.write("log", (self.format(record) + "\n").encode("utf-8", "replace"), record.levelname.lower())

        handler = Records()
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        logging.getLogger().addHandler(handler)

    def begin(self, request: int) -> None:
        """Tie what comes from now on to this request."""
        self.request = request

    def end(self) -> None:
        """Send what the streams still hold, and say how much was dropped."""
        if self.used:
            for stream in self._streams:
                try:
                    stream.flush()
                except (OSError, ValueError):  # the model closed it
                    pass
            if self._dropped:
                self._frame("stderr", f"… {self._dropped} bytes dropped\n".encode(), "")
            self._taken = self._dropped = 0
            self.used = False
        self.request = 0

    def write(self, stream: str, text: bytes, level: str = "") -> None:
        """Send text, up to the request's bound."""
        if self.several is not None:
            self.several.write(stream, text, level)
            return
        if not self.request:
            while text:
                text = text[os.write(2, text) :]  # blocks only while the driver is behind; it always reads
            return
        self.used = True
        left = self.most - self._taken
        if left < len(text):
            self._dropped += len(text) - max(left, 0)
            text = text[: max(left, 0)]
            if not text:
                return
        self._taken += len(text)
        for start in range(0, len(text), MAX_LOG_FRAME_BYTES):
            self._frame(stream, text[start : start + MAX_LOG_FRAME_BYTES], level)

    def _frame(self, stream: str, text: bytes, level: str) -> None:
        head = self._heads.get((stream, level))
        if head is None:
            head = dump({"stream": stream, "level": level} if level else {"stream": stream})
            if len(self._heads) < 32:  # a model may name levels as it likes
                self._heads[stream, level] = head
        held = self._interrupts.hold()
        try:
            self._channel.send(pack(Kind.LOG, head, request=self.request, body_bytes=len(text)), text)
        finally:
            if held:
                self._interrupts.release()

    def _stream(self, name: str, descriptor: int) -> io.TextIOWrapper:
        logs = self

        class Raw(io.RawIOBase):
            def writable(self) -> bool:
                return True

            def fileno(self) -> int:
                return descriptor

            def write(self, text: Any, /) -> Optional[int]:
                logs.write(name, bytes(text))
                return len(text)

        class Buffered(io.BufferedWriter):
            def write(self, text: Any, /) -> int:
                logs.used = True  # the rest of a line waits here, and goes with the request's end
                return super().write(text)

        buffered = Buffered(Raw(), 8192)
        return io.TextIOWrapper(buffered, "utf-8", "backslashreplace", line_buffering=True, write_through=True)
