"""Who holds an embedded database: the engine lets one process at a time open a folder, and fails at once for others."""

from __future__ import annotations

import os
from pathlib import Path

LOCK_FILE = "LOCK"
"""The engine's own: locked while a process has the folder open; it writes its pid there."""

LOCKED = "already locked by another process"
"""What the engine says then. It has no error class of its own for it."""

MAX_COMMAND = 80
"""Characters of a process's command line in a message."""


def noted_pid(folder: Path) -> int | None:
    """Return the pid in the lock file, if one is there.

    To be read before the first try to open: a try that fails empties the file.
    """
    try:
        return int((folder / LOCK_FILE).read_text("ascii").strip())
    except (OSError, ValueError):
        return None


def holder(folder: Path, noted: int | None) -> str:
    """Say which process has the lock, as well as this system tells: its pid, and its command where it can be read."""
    pid = _locking_pid(folder / LOCK_FILE) or noted
    if pid is None:
        return "another process"
    command = _command(pid)
    return f"process {pid} ({command})" if command else f"process {pid}"


def _locking_pid(path: Path) -> int | None:
    """Return the pid that /proc/locks (Linux) has for the file's inode."""
    try:
        found = path.stat()
        locks = Path("/proc/locks").read_text("ascii").splitlines()
    except OSError:
        return None
    wanted = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for lock in locks:
        # `1: FLOCK  ADVISORY  WRITE 708 08:01:1234 0 EOF`; a waiter's line has `->` after its number
        words = lock.split()
        if len(words) > 5 and words[1] != "->" and words[5] == wanted and words[4].isdigit() and words[4] != "0":
            return int(words[4])
    return None


def _command(pid: int) -> str:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""
    shown = "".join(c if c.isprintable() else " " for c in arguments).strip()
    return shown if len(shown) <= MAX_COMMAND else shown[: MAX_COMMAND - 1] + "…"
