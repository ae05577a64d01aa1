"""Stops the embedded server when nobody has used it for a while: a small process beside each server, ending with it.

Started by whoever finds the server without one. It sleeps in the kernel, on a lock that users share and on the server's
own end, and polls nothing while somebody is there. docs/decisions/05-idle-stop.md says why it is a process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from mer.dal.postgres import postmaster
from mer.dal.postgres.places import Places
from mer.locks import open_lock, try_lock

TAKEOVER_SECONDS = 5.0
"""How long a new watcher waits for the one before it, whose server has ended, to end too."""

DEAD_SECONDS = 2.0
"""How often to look whether the server lives, where the kernel cannot tell of its end."""


def watched(at: Places) -> bool:
    """Tell whether the server has a watcher."""
    descriptor = open_lock(at.watcher)
    try:
        return not try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def spawn(at: Places, *, idle_seconds: float) -> None:
    """Start a watcher of its own session for the server that runs; one that is not needed ends at once."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, str(at.home), str(at.socket), str(idle_seconds)],
        cwd="/",
        env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # it outlives the terminal, as the server does
    )
    threading.Thread(target=process.wait, daemon=True).start()  # where it ends before this process: no zombie


class Watcher:
    """The watch over one server process."""

    def __init__(self, at: Places, pid: int, *, idle_seconds: float) -> None:
        self._at = at
        self._pid = pid
        self._idle_seconds = idle_seconds

    def run(self) -> None:
        """Return when the server has ended, by this or by another hand."""
        threading.Thread(target=self._stop_when_idle, daemon=True).start()
        _wait_for_end(self._pid)

    def _stop_when_idle(self) -> None:
        users = open_lock(self._at.users, make=False)
        while True:
            fcntl.flock(users, fcntl.LOCK_EX)  # sleeps as long as anybody is there
            if _others(self._pid):
                os.utime(users)
            rest = self._idle_seconds - (time.time() - os.fstat(users).st_mtime)
            if rest <= 0:
                self._stop()
                return
            fcntl.flock(users, fcntl.LOCK_UN)
            time.sleep(min(rest, self._idle_seconds))  # more than that: the clock was set back

    def _stop(self) -> None:
        """Stop the server while newcomers wait: the lock on `users` is held until this process ends."""
        lock = open_lock(self._at.lock, make=False)
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = postmaster.living(self._at)
        if found and found.pid == self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(
                    self._pid, signal.SIGINT
                )  # a fast shutdown: https://www.postgresql.org/docs/18/server-shutdown.html
        threading.Event().wait()  # main ends with the server, and with that both locks


def main() -> None:
    """Run as `python -m`: HOME SOCKET IDLE_SECONDS."""
    home, socket, idle_seconds = sys.argv[1:]
    at = Places(home=Path(home), socket=Path(socket))
    with contextlib.suppress(FileNotFoundError):  # the state folder was removed: nothing is made in one that goes
        own = open_lock(at.watcher, make=False)
        if not try_lock(own, fcntl.LOCK_EX, seconds=TAKEOVER_SECONDS):
            return
        if found := postmaster.living(at):
            Watcher(at, found.pid, idle_seconds=float(idle_seconds)).run()


def _wait_for_end(pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, or it has ended
        while _lives(pid):
            time.sleep(DEAD_SECONDS)
        return
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.poll()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _others(pid: int) -> bool:
    """Tell whether a client is connected, who then is no `mer`; where there is no /proc, nobody is seen."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return any(b"[local]" in _title(child) for child in children)
    return False


def _title(pid: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


if __name__ == "__main__":
    main()
