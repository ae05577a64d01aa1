"""Progress, for a person who waits: one line on a terminal, nothing anywhere else."""

from __future__ import annotations

import time
from types import TracebackType

from mer.core.errors import Interrupted
from mer.faces.render.console import Console

PAUSE_SECONDS = 0.1
"""Between two pictures of the line: faster than that nobody reads, and a slow SSH line would hold the work up."""

BAR_CELLS = 24


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
        bar = ""
        if self.total:
            filled = min(BAR_CELLS, BAR_CELLS * count // self.total)
            bar = f"{'█' * filled}{'░' * (BAR_CELLS - filled)} {min(100, 100 * count // self.total)} % "
        self._console.progress(f"{bar}{self._done} {count} {self._unit}")

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
