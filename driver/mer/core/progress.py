"""Who is shown how far work has come that nobody called for by itself: content on its way to a host, mostly.

A context variable, as for traces (mer.core.trace): a worker is started deep below whoever waits for it, by a task that
inherits it. Where nobody looks, a report is a look at the variable.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable

Report = Callable[[str, int, int], None]
"""Takes what is done, how many bytes of it are, and of how many; of none: it is over. It returns at once and raises nothing."""

CURRENT: contextvars.ContextVar[Report | None] = contextvars.ContextVar("mer.progress", default=None)
"""Who looks; tasks that he starts inherit it."""


def report(what: str, done: int, total: int) -> None:
    """Say that `done` of `total` bytes are done; 0 of 0 that it is over, however it ended."""
    show = CURRENT.get()
    if show is not None:
        show(what, done, total)
