"""The living drivers, by their leases; those of this user on this machine can be asked to finish."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import signal

import msgspec

from mer.core.records import Lease
from mer.dal.base import Store
from mer.execution.process import PROC, ProcessIdentity, is_dead, started, this_process

POLL_SECONDS = 0.05
"""Between two looks whether a driver that was asked has ended."""


class Driver(msgspec.Struct, frozen=True, kw_only=True):
    """One driver, as its lease tells."""

    lease: Lease
    silent_seconds: float
    """Since its last heartbeat."""
    here: bool
    """Whether it is a process that this user can see and signal from here."""
    this: bool
    """Whether it is the one that asks."""
    dead: bool
    """Whether it has ended without giving its lease back: what it left open becomes `lost` with the next run."""


class Drivers:
    """Lists drivers, and asks them to finish."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def living(self) -> list[Driver]:
        """Return every driver that holds a lease, oldest first."""
        leases = await self._store.leases.all()
        now = await self._store.leases.now()
        return [_driver(lease, this_process(), now) for lease in leases]

    async def stop(self, *, grace_seconds: float) -> tuple[list[Driver], list[Driver]]:
        """Ask this user's drivers on this machine to finish (SIGTERM), and wait for them.

        Return those that ended and those that did not within the time; the one that asks is left out, and so are
        other users' and those of other machines.
        """
        asked = [driver for driver in await self.living() if driver.here and not driver.this]
        for driver in asked:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(driver.lease.pid, signal.SIGTERM)
        deadline = asyncio.get_running_loop().time() + grace_seconds
        remaining = asked
        while remaining and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(POLL_SECONDS)
            remaining = [driver for driver in remaining if _lives(driver.lease)]
        return [driver for driver in asked if driver not in remaining], remaining


def _driver(lease: Lease, here: ProcessIdentity, now: dt.datetime) -> Driver:
    dead = is_dead(identity_of(lease), here=here)
    return Driver(
        lease=lease,
        silent_seconds=max(0.0, (now - lease.last_seen).total_seconds()),
        here=dead is False and _owner(lease.pid) == os.getuid(),
        this=dead is False and lease.pid == here.pid,
        dead=dead is True,
    )


def identity_of(lease: Lease) -> ProcessIdentity:
    """Return the process that a lease names."""
    return ProcessIdentity(
        host=lease.host,
        boot_id=lease.boot_id,
        pid_namespace=lease.pid_namespace,
        pid=lease.pid,
        process_started=lease.process_started,
    )


def _lives(lease: Lease) -> bool:
    return started(lease.pid) == lease.process_started


def _owner(pid: int) -> int | None:
    try:
        return (PROC / str(pid)).stat().st_uid
    except OSError:
        return None
