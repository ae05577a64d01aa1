"""The end of a child process, learned of before it is reaped: until then its number is nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable


def watch(loop: asyncio.AbstractEventLoop, pid: int, exited: Callable[[], None]) -> None:
    """Call `exited` in the loop once a child has ended, before it is reaped."""
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, or an old kernel: a thread waits
        threading.Thread(target=_wait_and_tell, args=(loop, pid, exited), daemon=True).start()
        return

    def ready() -> None:
        loop.remove_reader(handle)
        os.close(handle)
        exited()

    try:
        loop.add_reader(handle, ready)
    except BaseException:
        os.close(handle)
        raise


def wait(pid: int) -> None:
    """Wait for the end of a child, which is not reaped."""
    with contextlib.suppress(ChildProcessError):  # somebody else has reaped it: it has ended
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def _wait_and_tell(loop: asyncio.AbstractEventLoop, pid: int, exited: Callable[[], None]) -> None:
    wait(pid)
    try:
        loop.call_soon_threadsafe(exited)
    except RuntimeError:  # the loop was closed before
        pass
