"""Frames: the one form in which driver and worker speak, over any duplex byte stream (docs/wire.md is normative).

Pure: bytes in, frames out, and the other way round; no descriptor is touched here. Both ends use this very module, and
so does everything that tests them. Every length has a cap, checked before a byte is kept for it.
"""

from __future__ import annotations

import json
import struct

from mer_worker import bodies

TYPE_CHECKING = False  # `typing` itself costs a worker 1 MB and 3 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Union

    Bytes = Union[bytes, bytearray, memoryview]


PREAMBLE = b"\x89MER\r\n\x1a\n"
"""Opens each direction. Like PNG's: no text begins with it, and a stream that converts line ends spoils it at once."""

VERSION = 1
"""The newest protocol version spoken here; it rises only where an old peer would misunderstand."""
OLDEST_VERSION = 1

HEADER = struct.Struct("<BBHIQIIQ")
"""kind, flags, segments, template, request, head length, number, body length."""
HEADER_BYTES = 32
U32 = (1 << 32) - 1
"""The most that a header's number can say; what is more is told as this."""

ALIGNMENT = bodies.ALIGNMENT
"""Segments begin at multiples of this within the body, and bodies in memory."""

MAX_HEAD_BYTES = 1 << 20
"""A head names tensors; one that needs more is no head, and JSON of this size already takes milliseconds."""
MAX_BODY_BYTES = 1 << 30
"""1 GiB of tensors in one message: a length beyond it is an error or an attack, not a request."""
MAX_SEGMENTS = 4096
"""Tensors of one message, the inner ones of nested tensors counted."""
MAX_NAME_BYTES = 256
"""UTF-8 bytes of a tensor's name."""
MAX_RANK = 32
"""Dimensions: numpy before 2.0 has no more."""
MAX_JSON_BYTES = 64 << 20
"""Of one tensor of JSON: read, it takes up to twenty times as much memory."""
MAX_TEXTS = 1 << 24
"""Elements of one tensor of strings: an empty text takes 4 bytes here, and many times that once it is read."""
MAX_META_BYTES = 16 << 10
"""Of a request's or result's `meta` as JSON: headers and a status, no payload."""
MAX_LOG_FRAME_BYTES = 64 << 10
"""Text in one log frame, so that prints cannot hold up a result for long."""
MAX_REQUEST_LOG_BYTES = 1 << 20
"""What is kept of one request's prints; the rest is counted and dropped."""
MAX_NOISE_BYTES = 64 << 10
"""What may come before the preamble: a login shell's greeting, not a wrong program's output."""
MAX_ERROR_TEXT = 64 << 10
"""Characters of a message or a traceback in an error frame."""

RECEIVE_BYTES = 64 << 10
"""One read's worth: the capacity of a Linux pipe."""


class Kind:
    """What a frame is; numbers are never given twice."""

    HELLO = 1
    LOAD = 2
    INFER = 3
    BATCH = 4
    PART = 5
    CREDIT = 6
    RESULT = 7
    SEAL = 8
    RELEASE = 9
    CANCEL = 10
    PING = 11
    PONG = 12
    LOG = 13
    ERROR = 14
    HAVE = 15
    PUT = 16
    SHUTDOWN = 17


KIND_NAMES = {number: name.lower() for name, number in vars(Kind).items() if not name.startswith("_")}


class Flag:
    """Bits of a frame's flags; a receiver ignores those it does not know."""

    MORE = 1
    """Part frames of this request or blob follow."""
    STREAM = 2
    """The caller takes the answer in parts."""
    SHARED = 4
    """The segments lie in shared memory; the body is a table of (offset, length). Capability `shared-memory`."""
    HANDLE = 8
    """The inputs were sent before; the head names their handle. Capability `seal`."""


class WireError(ValueError):
    """The bytes are not what docs/wire.md allows."""


class FrameTooLarge(WireError):
    """A length in a frame's header is beyond its cap."""


class BodyDropped(WireError):
    """There was no memory for a frame's body, so it was read and forgotten: its request cannot be answered."""


class VersionMismatch(WireError):
    """The two sides have no protocol version in common."""


class Frame:
    """One frame as received; the body lies in aligned memory of its own, which lives as long as something looks at it."""

    __slots__ = ("body", "dropped", "flags", "head", "kind", "number", "request", "segments", "shared", "template")

    def __init__(
        self,
        kind: int,
        flags: int = 0,
        segments: int = 0,
        template: int = 0,
        request: int = 0,
        number: int = 0,
        head: bytes = b"",
        body: Bytes = b"",
    ) -> None:
        self.kind = kind
        self.flags = flags
        self.segments = segments
        self.template = template
        self.request = request
        self.number = number
        """By kind: a request's deadline in milliseconds, a result's run time in microseconds, a credit's parts."""
        self.head = head
        self.body = body
        self.dropped = 0
        """Bytes of a body for which there was no memory: it is not here, and what comes after it is."""
        self.shared: list[memoryview] | None = None
        """The segments, once a body that lies in shared memory was claimed (mer_worker.shared)."""

    def fields(self) -> dict[str, Any]:
        """Return the head as an object; an empty head is an empty one.

        Raises:
            WireError: the head is no JSON object.
        """
        return parse_object(self.head)

    def __repr__(self) -> str:
        name = KIND_NAMES.get(self.kind, self.kind)
        return f"<{name} request={self.request} head={bytes(self.head[:80])!r} body={len(self.body)} bytes>"


class Limits:
    """The caps of one direction: what its receiver takes."""

    __slots__ = ("body", "head")

    def __init__(self, head: int = MAX_HEAD_BYTES, body: int = MAX_BODY_BYTES) -> None:
        self.head = head
        self.body = body


def pack(
    kind: int,
    head: bytes = b"",
    *,
    request: int = 0,
    flags: int = 0,
    segments: int = 0,
    number: int = 0,
    body_bytes: int = 0,
    template: int = 0,
) -> bytes:
    """Return a frame's header and head; its body, `body_bytes` long, is written after it.

    Raises:
        FrameTooLarge: the head is beyond its cap.
    """
    if len(head) > MAX_HEAD_BYTES:
        raise FrameTooLarge(f"a head of {len(head)} bytes: the cap is {MAX_HEAD_BYTES}")
    return HEADER.pack(kind, flags, segments, template, request, len(head), number, body_bytes) + head


def frame(
    kind: int, fields: Mapping[str, object] | None = None, *, request: int = 0, body: bytes = b"", number: int = 0
) -> bytes:
    """Return a whole frame that carries no tensors."""
    head = dump(fields) if fields else b""
    return pack(kind, head, request=request, number=number, body_bytes=len(body)) + body


def flagged(message: tuple[Bytes, ...], flags: int) -> tuple[Bytes, ...]:
    """Return a frame, in pieces, with more flags."""
    opening = bytes(message[0])
    return (opening[:1] + bytes((opening[1] | flags,)) + opening[2:], *message[1:])


def dump(value: object) -> bytes:
    """Return `value` as the wire's JSON: UTF-8, no spaces, no NaN.

    Raises:
        WireError: it has no such form.
    """
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"this has no JSON form: {error}") from error


def _refuse(constant: str) -> None:
    raise WireError(f"{constant} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_refuse)


def parse(text: Bytes) -> Any:
    """Read JSON: UTF-8 only, no NaN, no infinities.

    Raises:
        WireError: it is none, or nests too deeply.
    """
    try:
        return _JSON.decode(bytes(text).decode())
    except (ValueError, RecursionError) as error:
        raise WireError(f"no JSON: {error}") from error


def parse_object(text: Bytes) -> dict[str, Any]:
    """Read a JSON object; no bytes at all are an empty one.

    Raises:
        WireError: it is something else.
    """
    if not text:
        return {}
    value = parse(text)
    if not isinstance(value, dict):
        raise WireError(f"a head is a JSON object, not {type(value).__name__}")
    return value


def agree(hello: Mapping[str, Any]) -> int:
    """Return the protocol version that both sides speak, from the peer's hello.

    Raises:
        VersionMismatch: there is none; the message names both ranges.
        WireError: the hello does not say.
    """
    spoken = hello.get("protocol")
    oldest = spoken.get("min") if isinstance(spoken, dict) else None
    newest = spoken.get("max") if isinstance(spoken, dict) else None
    if type(oldest) is not int or type(newest) is not int:
        raise WireError("a hello says which protocol versions it speaks")
    if newest < OLDEST_VERSION or oldest > VERSION:
        raise VersionMismatch(
            f"the other side speaks protocol versions {oldest} to {newest}, this one {OLDEST_VERSION} to {VERSION}"
        )
    return min(newest, VERSION)


def most_body(hello: Mapping[str, Any]) -> int:
    """Return how many bytes of body the sender of this hello takes; what it does not say is our own cap."""
    limits = hello.get("limits")
    most = limits.get("body") if isinstance(limits, dict) else None
    return min(most, MAX_BODY_BYTES) if type(most) is int and most >= 0 else MAX_BODY_BYTES
