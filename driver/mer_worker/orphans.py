"""Ends what a worker leaves behind: everything that it forked, also what left its process group.

A worker's processes are known by three marks that they inherit: the process group, the session, and `MER_WORKER=UUID` in
the environment with which they were started. A process that has shed all three (a session of its own and a cleared
environment) is not found; docs/security.md says so.
"""

from __future__ import annotations

import os
import select
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Optional

VARIABLE = "MER_WORKER"

_PASSES = 20
"""A process may fork while it is looked for; each pass kills a generation, and a bomb must not keep us for ever."""


_DYING_SECONDS = 1.0
"""How long one pass waits for what it killed: one with much memory takes a while, one stuck in the kernel for ever."""


def sweep(marker: str, leader: int) -> int:
    """Kill every process of the worker `leader` with this marker, except this one, and return how many were found.

    The caller sees to it that `leader` is not reaped yet, so that its number is still its own; 0 looks for the mark alone.
    """
    killed = 0
    for _ in range(_PASSES):
        handles = [handle for pid in _left(marker, leader) if (handle := _kill(pid, marker, leader)) is not None]
        if not handles:
            break
        killed += len(handles)
        _wait(handles)
    return killed


def swept(cache: str, fields: dict[str, Any]) -> dict[str, Any]:
    """End what the workers with these `markers` left on this host, and remove their folders (a task of mer_worker.far)."""
    import shutil

    from mer_worker.stage0 import machine

    killed = 0
    for marker in map(str, fields["markers"]):
        if marker.isalnum():  # it names a folder
            killed += sweep(marker, 0)
            shutil.rmtree(os.path.join(cache, "scratch", f"{marker}.{machine()}"), ignore_errors=True)
    return {"killed": killed}


def kill_group(leader: int, number: int = signal.SIGKILL) -> None:
    """Signal every process of the group; none left is no error."""
    try:
        os.killpg(leader, number)
    except (ProcessLookupError, PermissionError):  # PermissionError: macOS, when only zombies are left
        pass


def _left(marker: str, leader: int) -> Iterator[int]:
    try:
        names = os.listdir("/proc")
    except OSError:  # no such file system: only the process group is known then
        return
    own = os.getpid()
    for name in names:
        if name.isdigit() and int(name) != own and _belongs(int(name), marker, leader):
            yield int(name)


def _belongs(pid: int, marker: str, leader: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # the name in parentheses may hold anything, parentheses and spaces too
            state, _parent, group, session = file.read().rpartition(b")")[2].split()[:4]
        if state in (b"Z", b"X"):
            return False
        if leader and leader in (int(group), int(session)):
            return True
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{VARIABLE}={marker}".encode() in file.read().split(b"\0")
    except (OSError, ValueError):  # gone meanwhile, or another user's
        return False


def _kill(pid: int, marker: str, leader: int) -> Optional[int]:
    """Kill the process, and return a descriptor of it; None if it is not the worker's, or is gone."""
    try:
        handle = os.pidfd_open(pid)  # so that a number given anew meanwhile is not hit
    except (OSError, AttributeError):
        return None
    try:
        if _belongs(pid, marker, leader):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            return handle
    except OSError:
        pass
    os.close(handle)
    return None


def _wait(handles: list[int]) -> None:
    """Wait until the killed have died, and close their descriptors: a kill is only begun when it returns."""
    end = time.monotonic() + _DYING_SECONDS
    for handle in handles:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.poll(max(0.0, end - time.monotonic()) * 1e3)
        os.close(handle)
