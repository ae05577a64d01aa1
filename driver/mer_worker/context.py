"""The context: what a handler may ask of the request that it runs, if it takes a parameter of that name."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Context:
    """One request, as its handler sees it. Of no use once the handler has returned."""

    __slots__ = ("cancelled", "meta", "request")

    def __init__(self, request: int = 0, meta: Mapping[str, Any] | None = None) -> None:
        self.request = request
        """Its number in this conversation."""
        self.meta: Mapping[str, Any] = {} if meta is None else meta
        """What the caller sent along: headers and the like, JSON."""
        self.cancelled = False
        """Whether nobody waits for the answer any more. A handler in a thread that computes for long looks now and then."""
