"""The spans of one request, for a driver that traces: asked for by a key of the request's meta, sent in the result's."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Optional

META = "mer.trace"


def now() -> int:
    """Return this machine's monotonic clock in microseconds: that of a pong's `clock`, too."""
    return time.monotonic_ns() // 1000


class Spans:
    """What took how long, one step after the other."""

    __slots__ = ("_at", "_told")

    def __init__(self) -> None:
        self._told: list[list[Any]] = []
        self._at = now()

    def step(self, name: str) -> None:
        """Say that what has been done since the last step, or since the beginning, was this."""
        end = now()
        self._told.append([name, self._at, end])
        self._at = end

    def meta(self) -> dict[str, Any]:
        """Return the meta that tells them."""
        return {META: self._told}

    def ended(self, name: str) -> dict[str, Any]:
        """Return the meta of a request that has failed: in this step, if none was told before."""
        if not self._told:
            self.step(name)
        return self.meta()


def told(meta: Mapping[str, Any], name: str, began: float, ended: float) -> Optional[dict[str, Any]]:
    """Return the meta that tells one step, from and to monotonic seconds, if the request's meta asks for it."""
    return {META: [[name, int(1e6 * began), int(1e6 * ended)]]} if meta.get(META) is True else None


def asked(meta: Mapping[str, Any]) -> Optional[Spans]:
    """Return spans to be filled, if the request's meta asks for them."""
    return Spans() if meta.get(META) is True else None
