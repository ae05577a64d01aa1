"""Which process this is, and whether another one still lives: what a lease is judged by."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec

PROC = Path("/proc")


class ProcessIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """One process among all machines and all times."""

    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    process_started: str


def this_process(proc: Path = PROC) -> ProcessIdentity:
    """Return this process's identity. What a system without /proc cannot tell is empty."""
    pid = os.getpid()
    return ProcessIdentity(
        host=socket.gethostname(),
        boot_id=_read(proc / "sys/kernel/random/boot_id"),
        pid_namespace=_link(proc / "self/ns/pid"),
        pid=pid,
        process_started=started(pid, proc) or "",
    )


def is_dead(other: ProcessIdentity, *, here: ProcessIdentity, proc: Path = PROC) -> bool | None:
    """Tell whether `other` has ended; None where that cannot be seen from here: its heartbeat has to tell.

    In one PID namespace since one start of one kernel, a pid that is gone, or that another process has by now, is proof.
    Nothing else is: two machines may share a host's name, and the first PID namespace has one number on all of them.
    """
    if not (here.boot_id and here.pid_namespace):
        return None
    if (other.boot_id, other.pid_namespace) != (here.boot_id, here.pid_namespace):
        return None
    began = started(other.pid, proc)
    if began is None and _is_hidden(other.pid):
        return None
    return began != other.process_started


def started(pid: int, proc: Path = PROC) -> str | None:
    """Return when the process began, in clock ticks since boot; None if there is none, or only its remains."""
    fields = _read(proc / str(pid) / "stat").rpartition(")")[2].split()
    if not fields or fields[0] in "ZX":  # a zombie does nothing any more
        return None
    return fields[19]


def _is_hidden(pid: int) -> bool:
    """Whether there is such a process though /proc does not show it: mounted with hidepid it hides those of others."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return False  # ours: it is shown, and was a zombie or gone a moment ago


def _read(path: Path) -> str:
    try:
        # a process's name is cut at 15 bytes, in the midst of a character if need be
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""
