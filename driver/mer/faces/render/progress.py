"""Progress, for a person who waits: one line on a terminal, nothing anywhere else."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from mer.core.errors import Interrupted
from mer.faces.render.console import Console, OutputClosed
from mer.faces.render.text import visible

if TYPE_CHECKING:
    import asyncio

PAUSE_SECONDS = 0.1
"""Between two pictures of the line: faster than that nobody reads, and a slow SSH line would hold the work up."""

BAR_CELLS = 24

WAIT_SECONDS = 1.0
"""What is over sooner is not shown: a line that flashes says nothing."""

_MIB = 1 << 20


class Progress:
    """A line that is drawn anew as work goes on; call it with how much is done."""

    def __init__(self, console: Console, done: str, unit: str) -> None:
        self.total = 0
        self.shown = console.error_terminal and not console.json
        self._console = console
        self._done = done
        self._unit = unit
        self._last = 0.0
        self._drawn = False
        self._stopped = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._drawn:
            self._console.progress("")

    def __call__(self, count: int) -> None:
        """Show that `count` are done, if it is time to.

        Raises:
            Interrupted: `stop` was called meanwhile.
        """
        if self._stopped:
            raise Interrupted
        now = time.monotonic()
        if not self.shown or now - self._last < PAUSE_SECONDS:
            return
        self._last, self._drawn = now, True
        self._console.progress(f"{_bar(count, self.total)}{self._done} {count} {self._unit}")

    def stop(self) -> None:
        """Let the next call raise: a thread that works cannot be cancelled in any other way."""
        self._stopped = True


class Phases:
    """Progress of work in several phases, each with a line of its own; call it with the phase, how much, and of how many."""

    def __init__(self, console: Console, unit: str = "records") -> None:
        self._console = console
        self._unit = unit
        self._phase = ""
        self._line: Progress | None = None
        self._stopped = False

    def __enter__(self) -> Phases:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped = True  # a thread that still works calls once more
        if self._line:
            self._line.__exit__(kind, error, traceback)

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done.

        Raises:
            Interrupted: nobody waits for it any more.
        """
        if self._stopped:
            raise Interrupted
        if self._line is None or phase != self._phase:
            self._phase, self._line = phase, Progress(self._console, phase, self._unit)
        self._line.total = total
        self._line(done)


class Waiting:
    """Progress of what a command has to wait for without having asked for it (mer.core.progress): one line for all of it."""

    def __init__(self, console: Console, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._monotonic = monotonic
        self._begun: dict[str, float] = {}
        self._steps: dict[str, str] = {}
        """Of each server that is waited for, the step."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._last = 0.0
        self._drawn = ""
        self._closed = False

    def __enter__(self) -> Waiting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed = True  # a worker may go on being started, for nobody, while the REPL has its prompt
        for timer in self._timers.values():
            timer.cancel()
        if self._drawn:
            self._draw("")

    def waits(self, server: str, step: str) -> None:
        """Show what is waited for there, once it has taken WAIT_SECONDS; "": nothing is any more."""
        what = f"waiting for {server}"
        if not step:
            self._steps.pop(what, None)
            self._over(what)
        elif self._shown():
            first, now = what not in self._steps, self._monotonic()
            self._steps[what] = step
            if now - self._begun.setdefault(what, now) >= WAIT_SECONDS:
                self._drawn = what
                self._draw(visible(f"{what}: {step}"))
            elif first:
                import asyncio  # it is there already: without a loop nobody waits

                self._timers[what] = asyncio.get_running_loop().call_later(WAIT_SECONDS, self._due, what)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that so many of so many bytes are done, once it has taken WAIT_SECONDS; none of none: it is over."""
        if not self._shown():
            return
        now = self._monotonic()
        if not total:
            self._over(what)
        elif now - self._begun.setdefault(what, now) >= WAIT_SECONDS and now - self._last >= PAUSE_SECONDS:
            self._last, self._drawn = now, what
            self._draw(f"{_bar(done, total)}{what} {done // _MIB}/{-(-total // _MIB)} MiB")

    def _shown(self) -> bool:
        return self._console.error_terminal and not self._console.json and not self._closed

    def _due(self, what: str) -> None:
        if self._shown() and not self._drawn:
            self._drawn = what
            self._draw(visible(f"{what}: {self._steps[what]}"))

    def _over(self, what: str) -> None:
        self._begun.pop(what, None)
        if (timer := self._timers.pop(what, None)) is not None:
            timer.cancel()
        if self._drawn == what:
            self._drawn = ""
            self._draw("")

    def _draw(self, line: str) -> None:
        with contextlib.suppress(OutputClosed):  # nobody looks any more: the work goes on
            self._console.progress(line)


def _bar(count: int, total: int) -> str:
    if not total:
        return ""
    filled = min(BAR_CELLS, BAR_CELLS * count // total)
    return f"{'█' * filled}{'░' * (BAR_CELLS - filled)} {min(100, 100 * count // total)} % "
