"""Lines that are drawn anew while several things go on side by side: one line each, on a terminal only."""

from __future__ import annotations

import time
from types import TracebackType

from mer.faces.render.console import Console

PAUSE_SECONDS = 0.1
"""Between two pictures: faster than that nobody reads."""

MOST_LINES = 20
"""Of a picture: one that is higher than the terminal would scroll, and could not be drawn over."""


class LiveLines:
    """One line a name; the picture is taken away at the end."""

    def __init__(self, console: Console) -> None:
        self.shown = console.error_terminal and not console.json
        self._console = console
        self._lines: dict[str, str] = {}
        self._drawn = 0
        self._last = 0.0

    def __enter__(self) -> LiveLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._drawn:
            self._console.picture([], over=self._drawn)

    def __call__(self, name: str, text: str) -> None:
        """Say where `name` is now."""
        self._lines[name] = f"{name}  {text}"
        now = time.monotonic()
        if not self.shown or now - self._last < PAUSE_SECONDS:
            return
        lines = list(self._lines.values())[-MOST_LINES:]
        self._console.picture(lines, over=self._drawn)
        self._last, self._drawn = now, len(lines)
