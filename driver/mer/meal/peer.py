"""The two ends of a conversation as they introduce themselves: what the driver says in its hello, what the worker said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mer_worker.wire import MAX_BODY_BYTES, MAX_HEAD_BYTES, OLDEST_VERSION, VERSION, Kind, agree, frame, most_body

CAPABILITIES: tuple[str, ...] = ("control", "templates")
"""What this driver can do beyond the least (docs/wire.md, section 4)."""


def hello(*, capabilities: Sequence[str] = (), **more: Any) -> bytes:
    """Return the driver's hello as a frame, with further capabilities and keys of its head."""
    fields = {
        "protocol": {"min": OLDEST_VERSION, "max": VERSION},
        "capabilities": [*CAPABILITIES, *capabilities],
        "limits": {"head": MAX_HEAD_BYTES, "body": MAX_BODY_BYTES},
    }
    return frame(Kind.HELLO, fields | more)


class Peer:
    """What a worker said of itself."""

    __slots__ = ("capabilities", "hello", "most_body")

    def __init__(self, hello: Mapping[str, Any]) -> None:
        """Read its hello.

        Raises:
            VersionMismatch: the two have no version in common.
            WireError: it is no hello.
        """
        agree(hello)
        self.hello = hello
        named = hello.get("capabilities")
        self.capabilities = (
            frozenset(name for name in named if isinstance(name, str)) if isinstance(named, list) else frozenset()
        )
        self.most_body = most_body(hello)
        """Bytes of body that it takes."""


def text(fields: Mapping[str, Any], name: str) -> str:
    """Return a text of a head as a terminal and a record take it; "" where it is none."""
    value = fields.get(name, "")
    # JSON can spell half a surrogate pair
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""
