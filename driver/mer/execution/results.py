"""What an invocation gives back to whoever asked for it."""

from __future__ import annotations

from typing import Any

import msgspec

from mer.audit.bodies import FailedAttempt, Timings
from mer.core.records import InvocationId


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The outputs of a successful invocation, and what is known of how they came about."""

    outputs: dict[str, Any]
    """Name to numpy array, str, bytes or JSON value; `mer_worker.tensors.Buffer` where the version says `arrays = "buffer"`."""
    invocation: InvocationId
    model: str
    version: int
    server: str
    timings: Timings
    parts: int | None = None
    """Of an answer that came in parts, how many; `outputs` are then those of the end, if the model gave any there."""
    failed_attempts: tuple[FailedAttempt, ...] = ()
    """Servers that were to run it before this one did, and could not, or (with `retry`) lost it."""
    recorded: bool = True
    """False: the database went away before the finish could be recorded; it waits in the journal of the state folder."""
