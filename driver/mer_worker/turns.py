"""Turns at a device of a far host: the workers of one driver at a time have it, and who waits is told for whom.

A lock file a device: `locks/MACHINE.DEVICE` is held, shared, by every worker of the driver whose turn it is, for as long as the
worker, or something that it has forked, lives; the kernel frees it. What it says is who that is. `locks/MACHINE.DEVICE.turn` is
held for the moment in which somebody looks.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from urllib.parse import quote

from mer_worker.blobs import own_folder, unwritable
from mer_worker.claims import locked
from mer_worker.failures import Failure
from mer_worker.stage0 import machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Optional

LOOK_SECONDS = 0.25
"""Between two looks at a device that somebody else has."""

MAX_HOLDER_BYTES = 4096
"""Of what is said of a holder: names and numbers."""

MAX_NAME_BYTES = 200
"""Of a device's name as a file's."""

_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_HELD: list[int] = []
"""Descriptors of the devices that this process has: open until it ends."""


class Turn:
    """The turn at one device."""

    def __init__(self, cache: str, device: str) -> None:
        """Take turns by the locks in the cache folder. Raises: Failure."""
        name = quote(device, safe=":")
        if not name.strip(".") or len(name) > MAX_NAME_BYTES:
            raise Failure("protocol", "bad-load", f"{device[:80]!r} names no device")
        folder = os.path.join(cache, "locks")
        os.close(own_folder(folder))
        self.device = device
        self._path = os.path.join(folder, f"{machine()}.{name}")  # several machines may have this one home

    def take(self, holder: Mapping[str, Any], seconds: float, tell: Callable[[str], None]) -> None:
        """Wait for the turn, at most so long, and keep it until this process ends. `tell` takes a line on whom it waits for.

        Raises:
            Failure: somebody else had it all the time, who is named; or the lock cannot be had.
        """
        end = time.monotonic() + seconds
        told: Optional[str] = None
        while True:
            try:
                other = self._try(holder)
            except OSError as error:
                raise unwritable(error, self._path) from error
            if other is None:
                return
            who = _named(other)
            if who != told:
                told = who
                tell(f"waiting for {self.device}, which {who} has")
            left = end - time.monotonic()
            if left <= 0:
                raise Failure("busy", "device-held", f"{self.device} was not free within {seconds:.0f} s: {who} has it")
            time.sleep(min(left, LOOK_SECONDS))

    def _try(self, holder: Mapping[str, Any]) -> Optional[dict[str, Any]]:
        """Take the device if it is free, or this driver's already; else return who has it. Raises: OSError."""
        with locked(f"{self._path}.turn", fcntl.LOCK_EX):
            descriptor = os.open(self._path, _OPEN, 0o600)
            try:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    other = _read(descriptor)
                    if not holder.get("driver") or other.get("driver") != holder["driver"]:
                        return other
                else:
                    _write(descriptor, {**holder, "since": int(time.time())})
                fcntl.flock(descriptor, fcntl.LOCK_SH)  # nobody else can have it between: he would have the turn
                _HELD.append(descriptor)
                descriptor = -1
                return None
            finally:
                if descriptor >= 0:
                    os.close(descriptor)


def _read(descriptor: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(descriptor, MAX_HOLDER_BYTES, 0))
    except ValueError:
        return {}
    return found if type(found) is dict else {}


def _write(descriptor: int, holder: Mapping[str, Any]) -> None:
    text = json.dumps(holder).encode()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text if len(text) <= MAX_HOLDER_BYTES else b"{}", 0)


def _named(holder: Mapping[str, Any]) -> str:
    """Return who it is, for people; the names are the other driver's own words."""
    actor, host, pid, since = (holder.get(key) for key in ("actor", "host", "pid", "since"))
    if not actor and not host:
        return "somebody else"
    when = f" since {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(since))} UTC" if type(since) is int else ""
    return f"{actor or 'somebody'} on {host or 'an unknown host'} (pid {pid}{when})"
