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
    """Tell whether `other` has ended; None where that cannot be seen from here.

    On one machine a changed boot id is proof; in one PID namespace so is a pid that is gone, or that another process has
    by now. A process of another machine or container can only be judged by its heartbeat.
    """
    if not other.host or other.host != here.host or not here.boot_id:
        return None
    if other.boot_id != here.boot_id:
        # the same host name is no proof of the same machine: containers of one image share it
        return True if other.pid_namespace == here.pid_namespace else None
    if other.pid_namespace != here.pid_namespace:
        return None
    return started(other.pid, proc) != other.process_started


def started(pid: int, proc: Path = PROC) -> str | None:
    """Return when the process began, in clock ticks since boot; None if there is none, or only its remains."""
    fields = _read(proc / str(pid) / "stat").rpartition(")")[2].split()
    if not fields or fields[0] in "ZX":  # a zombie does nothing any more
        return None
    return fields[19]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""
