"""The wall limit of a run as the driver holds it: the worker does so itself, unless C code keeps Python's lock there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mer.core.errors import DeadlineExceeded, RunTooLong, limit_exceeded
from mer.core.specs import VersionSpec
from mer.meal.pooled import BATCHES_AHEAD

BACKSTOP = 4.0
"""Seconds after the limit: what a worker takes to interrupt a handler twice and to end itself (mer_worker.limits), and some."""


@contextlib.contextmanager
def within(spec: VersionSpec, deadline: float | None, *, now: float) -> Iterator[float | None]:
    """Give the deadline by which a run that is sent `now` has to answer; if the limit set it, say so when it passes.

    One of a batch may have to wait for others before it that may take as long as itself.

    Raises:
        RunTooLong
    """
    wall_seconds, turns = spec.limits.wall_seconds, 1 if spec.batch is None else BATCHES_AHEAD
    due = None if wall_seconds is None else now + turns * wall_seconds + BACKSTOP
    if wall_seconds is None or due is None or (deadline is not None and deadline <= due):
        yield deadline
        return
    try:
        yield due
    except RunTooLong:
        raise
    except DeadlineExceeded as error:
        exceeded = limit_exceeded("wall", f"the run took longer than its limit of {wall_seconds:g} s")
        exceeded.run_us = error.run_us
        raise exceeded from error
