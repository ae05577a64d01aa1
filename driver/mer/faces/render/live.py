"""Lines that are drawn anew while several things go on side by side: one line each, on a terminal only."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from mer.faces.render.console import Console

if TYPE_CHECKING:
    import asyncio

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
        self._later: asyncio.TimerHandle | None = None

    def __enter__(self) -> LiveLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shown = False
        if self._later is not None:
            self._later.cancel()
        if self._drawn:
            self._console.picture([], over=self._drawn)

    def __call__(self, name: str, text: str) -> None:
        """Say where `name` is now."""
        self._lines[name] = f"{name}  {text}"
        if not self.shown or self._later is not None:
            return
        pause = self._last + PAUSE_SECONDS - time.monotonic()
        if pause > 0:  # it may be the last to be said for long: it is drawn, and a little later
            import asyncio  # it is there already: several things go on

            self._later = asyncio.get_running_loop().call_later(pause, self._draw)
        else:
            self._draw()

    def _draw(self) -> None:
        self._later = None
        if self._console.asks:
            return
        lines = list(self._lines.values())[-MOST_LINES:]
        self._console.picture(lines, over=self._drawn)
        self._last, self._drawn = time.monotonic(), len(lines)
