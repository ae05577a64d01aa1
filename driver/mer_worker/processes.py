"""What a process and its descendants use, as /proc tells it; where there is no such file system, nothing is known."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


def descendants(leader: int) -> list[int]:
    """Return every process that `leader` has started, directly or not, and what else is of its session."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    try:
        names = os.listdir("/proc")
    except OSError as error:
        _require_files(error)
        return []
    for name in names:
        fields = _stat(name) if name.isdigit() else None
        if fields is None or fields[0] in (b"Z", b"X"):
            continue
        pid = int(name)
        parents[pid] = int(fields[1])
        if int(fields[3]) == leader and pid != leader:
            found.add(pid)
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    waiting = [leader, *found]
    while waiting:
        for pid in children.get(waiting.pop(), ()):
            if pid not in found and pid != leader:
                found.add(pid)
                waiting.append(pid)
    return sorted(found)


def memory_of(pid: int, *, exact: bool = False) -> int:
    """Return the bytes of memory that are the process's own: no mapped files, no shared memory; 0 where it is gone.

    `exact` gives what it shares with a fork to each in part, which takes the kernel longer to count.
    """
    try:
        if exact and (found := _proportional(pid)) is not None:
            return found
        with open(f"/proc/{pid}/statm", "rb") as file:
            _size, resident, shared = file.read().split()[:3]
        return (int(resident) - int(shared)) * _PAGE
    except ValueError:
        return 0
    except OSError as error:
        _require_files(error)
        return 0


def processor_seconds_of(pid: int) -> float:
    """Return the CPU seconds that a process has used, those of the children that it has waited for too."""
    fields = _stat(str(pid))
    return 0.0 if fields is None else sum(map(int, fields[11:15])) / _TICK


def _stat(name: str) -> Optional[list[bytes]]:
    """Return what /proc/PID/stat says from the state on; None where the process is gone."""
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            # the name in parentheses may hold anything, parentheses and spaces too
            return file.read().rpartition(b")")[2].split()
    except OSError as error:
        _require_files(error)
        return None


def _require_files(error: OSError) -> None:
    """Raise the error if this process may open no more files: then it says nothing of what was looked at."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise error


def _proportional(pid: int) -> Optional[int]:
    with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss_Anon:"):
                return int(line.split()[1]) << 10
    return None
