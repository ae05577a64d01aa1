"""What the requests of one worker print, told apart: each has its own unfinished line and its own bound.

The streams of mer_worker.logs keep one line for the whole process, which is right where one request runs at a time.
"""

from __future__ import annotations

import io
import os
import sys

from mer_worker.serving.flights import current
from mer_worker.wire import MAX_LOG_FRAME_BYTES, Kind, dump, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mer_worker.channel import Channel
    from mer_worker.interrupts import Interrupts

_LONGEST_LINE = 8192
"""Characters that wait for the end of their line."""


class Voice:
    """What one request has printed so far."""

    __slots__ = ("dropped", "left", "lines")

    def __init__(self, most: int) -> None:
        self.left = most
        self.dropped = 0
        self.lines = {"stdout": "", "stderr": ""}
        """Text whose line has not ended yet."""


class Voices:
    """The prints of several requests at once."""

    def __init__(self, channel: Channel, interrupts: Interrupts, most: int) -> None:
        self._channel = channel
        self._interrupts = interrupts
        self._most = most
        self._voices: dict[int, Voice] = {}

    def install(self) -> None:
        """Put streams of ours in the place of sys.stdout and sys.stderr."""
        sys.stdout.flush()
        sys.stdout = Lines(self, "stdout", 1)
        sys.stderr = Lines(self, "stderr", 2)

    def forget(self) -> None:
        """In a forked child: what it prints goes to fd 2."""
        self._voices = {}

    def begin(self, request: int) -> None:
        """Open a request's voice."""
        self._voices[request] = Voice(self._most)

    def end(self, request: int) -> None:
        """Send what of its lines has not ended, and say how much was dropped."""
        voice = self._voices.get(request)
        if voice is None:
            return
        for stream, line in voice.lines.items():
            if line:
                self._send(request, voice, stream, line.encode("utf-8", "backslashreplace"), "")
        if voice.dropped:
            self._frame(request, "stderr", f"… {voice.dropped} bytes dropped\n".encode(), "")
        del self._voices[request]

    def text(self, stream: str, text: str) -> None:
        """Take text, and send it by whole lines."""
        flight = current.get()
        voice = None if flight is None else self._voices.get(flight.request)
        if flight is None or voice is None:
            self.write(stream, text.encode("utf-8", "backslashreplace"))
            return
        line = voice.lines[stream] + text
        at = line.rfind("\n") + 1
        if len(line) - at > _LONGEST_LINE:
            at = len(line)
        voice.lines[stream] = line[at:]
        if at:
            self._send(flight.request, voice, stream, line[:at].encode("utf-8", "backslashreplace"), "")

    def write(self, stream: str, text: bytes, level: str = "") -> None:
        """Send bytes at once, as those of the request that the calling code runs for."""
        flight = current.get()
        voice = None if flight is None else self._voices.get(flight.request)
        if flight is None or voice is None:
            while text:
                text = text[os.write(2, text) :]  # blocks only while the driver is behind; it always reads
            return
        self._send(flight.request, voice, stream, text, level)

    def _send(self, request: int, voice: Voice, stream: str, text: bytes, level: str) -> None:
        if voice.left < len(text):
            voice.dropped += len(text) - voice.left
            text = text[: voice.left]
        voice.left -= len(text)
        for start in range(0, len(text), MAX_LOG_FRAME_BYTES):
            self._frame(request, stream, text[start : start + MAX_LOG_FRAME_BYTES], level)

    def _frame(self, request: int, stream: str, text: bytes, level: str) -> None:
        head = dump({"stream": stream, "level": level} if level else {"stream": stream})
        held = self._interrupts.hold()
        try:
            self._channel.send(pack(Kind.LOG, head, request=request, body_bytes=len(text)), text)
        finally:
            if held:
                self._interrupts.release()


class Lines(io.TextIOBase):
    """sys.stdout or sys.stderr of a worker that runs several requests at once."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, voices: Voices, name: str, descriptor: int) -> None:
        self._voices = voices
        self._stream = name
        self._descriptor = descriptor
        self.buffer = Bytes(voices, name, descriptor)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, text: str, /) -> int:
        self._voices.text(self._stream, text)
        return len(text)


class Bytes(io.RawIOBase):
    """What is under it, for who writes bytes."""

    def __init__(self, voices: Voices, name: str, descriptor: int) -> None:
        self._voices = voices
        self._stream = name
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, text: Any, /) -> int:
        self._voices.write(self._stream, bytes(text))
        return len(text)
