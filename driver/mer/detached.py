"""Detached calls: what may block for ever runs in a thread that nobody has to wait for.

A read from a terminal, or from a pipe that nobody writes to, cannot be cancelled. asyncio's own threads are waited for
when the loop ends and when the process does, so with them a Ctrl-C would end nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def detached(function: Callable[..., T], *args: Any) -> T:
    """Return what `function` returns; when this is cancelled, its thread is left to itself."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]  # None only where T is

    def call() -> None:
        result, failure = None, None
        try:
            result = function(*args)
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever awaits the answer
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=call, name=f"detached {getattr(function, '__name__', '')}", daemon=True).start()
    return await answer
