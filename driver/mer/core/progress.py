"""Who is shown what is waited for that nobody called for by itself: a server that does not answer, content on its way to a host.

Context variables, as for traces (mer.core.trace): a worker is started deep below whoever waits for it, by a task that
inherits them. Where nobody looks, a report is a look at the variable.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator

Report = Callable[[str, int, int], None]
"""Takes what is done, how many bytes of it are, and of how many; of none: it is over. It returns at once and raises nothing."""

Wait = Callable[[str, str], None]
"""Takes a server, and the step that is waited for there; "": none is any more. It returns at once and raises nothing."""

CURRENT: contextvars.ContextVar[Report | None] = contextvars.ContextVar("mer.progress", default=None)
"""Who looks; tasks that he starts inherit it."""

WAITS: contextvars.ContextVar[Wait | None] = contextvars.ContextVar("mer.progress.waits", default=None)
"""Who looks at steps."""

_OUTER: contextvars.ContextVar[str] = contextvars.ContextVar("mer.progress.outer", default="")
"""The step within which another one is waited for."""


def report(what: str, done: int, total: int) -> None:
    """Say that `done` of `total` bytes are done; 0 of 0 that it is over, however it ended."""
    show = CURRENT.get()
    if show is not None:
        show(what, done, total)


def waiting(server: str, step: str) -> None:
    """Say that a step is waited for; "" that none is any more, however it ended."""
    show = WAITS.get()
    if show is not None:
        show(server, step)


@contextlib.contextmanager
def waits(server: str, step: str) -> Iterator[Callable[[str], None]]:
    """Say that `step` is waited for within the block, or one that is told meanwhile by what this gives.

    After it, it is again what was waited for around the block. Who is told of a later step is who looked at the beginning:
    it may be a callback of a library that tells of it, in a context of its own.
    """
    show, outer = WAITS.get(), _OUTER.get()

    def told(step: str) -> None:
        if show is not None:
            show(server, step)

    token = _OUTER.set(step)
    told(step)
    try:
        yield told
    finally:
        _OUTER.reset(token)
        told(outer)


def unseen() -> None:
    """Let nobody look at what this task waits for, nor those that it starts."""
    CURRENT.set(None)
    WAITS.set(None)
