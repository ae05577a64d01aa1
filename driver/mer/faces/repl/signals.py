"""Ctrl-C: it cancels the command that runs, and never the REPL."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable
from types import TracebackType
from typing import Any


class Interrupts:
    """Holds SIGINT while the REPL lives; between commands one that comes is nobody's."""

    def __init__(self) -> None:
        self._running: asyncio.Future[Any] | None = None
        self._interrupted = False

    def __enter__(self) -> Interrupts:
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)

    async def run(self, awaited: Awaitable[Any]) -> bool:
        """Await a command as a task of its own, and return whether Ctrl-C cancelled it."""
        self._running = running = asyncio.ensure_future(awaited)
        self._interrupted = False
        try:
            await running
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
            return True
        finally:
            self._running = None
            if not running.done():  # this task itself was cancelled meanwhile
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running
        return False

    def _on_interrupt(self) -> None:
        if self._running is not None:
            self._interrupted = True
            self._running.cancel()
