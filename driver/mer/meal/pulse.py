"""What a worker says of itself while it works: which requests it is at, and since when.

A ping is answered by a thread of its own, so that it comes while the model computes; what it tells of the model's own loop
is what shows whether that is alive. A missed pong alone is no death: C code that keeps Python's lock answers nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mer_worker.wire import Frame, WireError

_MOST = 64
"""Requests that are told of (docs/wire.md, "pong")."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """One request that a worker is at."""

    request: int
    """Its number in the conversation."""
    seconds: float
    """How long its handler has run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulse:
    """A worker's answer to a ping."""

    answered: float
    """Seconds until the answer came."""
    running: tuple[Running, ...] = ()
    """The oldest first; empty where the model is idle."""

    def __str__(self) -> str:
        """Return it in words."""
        answers = f"answers a ping in {self.answered * 1e6:.0f} µs"
        if not self.running:
            return f"idle; {answers}"
        oldest = self.running[0]
        more = f", {len(self.running)} at once" if len(self.running) > 1 else ""
        return f"busy with request {oldest.request} for {oldest.seconds:.1f} s{more}; {answers}"


def pulse_of(pong: Frame, answered: float) -> Pulse:
    """Read a pong. What it tells wrongly is left out: a heartbeat is worth no worker."""
    try:
        fields = pong.fields()
    except WireError:
        return Pulse(answered=answered)
    told = fields.get("running")
    if not isinstance(told, list):
        told = [fields.get("busy")]
    found = (_running(one) for one in told[:_MOST])
    return Pulse(answered=answered, running=tuple(running for running in found if running is not None))


def _running(told: Any) -> Running | None:
    if not isinstance(told, dict):
        return None
    request, milliseconds = told.get("request"), told.get("milliseconds")
    if type(request) is not int or type(milliseconds) is not int:
        return None
    return Running(request=request, seconds=milliseconds / 1e3)
