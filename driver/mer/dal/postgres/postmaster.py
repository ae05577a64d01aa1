"""The embedded server's main process: whether it lives, how it is started and stopped.

postmaster.pid alone cannot be believed: after a kill -9 it names a process that is gone, or, worse, another's that got
the same number, and PostgreSQL then refuses to start.
"""

from __future__ import annotations

import os
import shlex
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from mer.core.errors import DatabaseUnreachable
from mer.dal.postgres.account import Account
from mer.dal.postgres.places import SOCKET_NAME, Places

START_SECONDS = 120.0
"""How long a start may take in all: a recovery of 1.8 GB of WAL took 11 s, ten times that is a fault."""

PG_CTL_SECONDS = 10
"""How long pg_ctl itself waits for a start; past that we go on looking, since the recovery goes on too."""

STOP_SECONDS = 60
"""How long a stop may take: it writes a checkpoint."""

PROBE_SECONDS = 5.0
"""How long to wait for a socket on this machine to accept; a full backlog is the only reason to wait at all."""

LOG_BYTES = 10 * 2**20
"""The log is put aside when it is longer at a start; one old log is kept."""

PAUSE_SECONDS = 0.05

HALF_WRITTEN_SECONDS = 1.0
"""How old a pid file without a pid must be: a server writes it in microseconds, and PostgreSQL starts beside none."""


@dataclass(frozen=True, kw_only=True)
class PidFile:
    """What postmaster.pid says."""

    pid: int
    socket: Path
    status: str

    @classmethod
    def read(cls, data: Path) -> PidFile | None:
        """Read the file in a cluster; None where there is none, or none that is whole yet."""
        try:
            lines = (data / "postmaster.pid").read_text(errors="replace").splitlines()
            # https://www.postgresql.org/docs/18/storage-file-layout.html: pid, data, start, port, socket, address, key, status
            return cls(pid=int(lines[0]), socket=Path(lines[4]), status=lines[7].strip())
        except (FileNotFoundError, IndexError, ValueError):
            return None


def accepts(folder: Path) -> bool:
    """Tell whether a server listens on the socket in that folder; it may still be recovering."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(str(folder / SOCKET_NAME))
        except OSError:
            return False
    return True


def living(at: Places) -> PidFile | None:
    """Return what postmaster.pid says where that process is a server and lives; else None."""
    found = PidFile.read(at.data)
    return found if found and _serves(found.pid, at.data) else None


def start(at: Places, account: Account, programs: Path) -> None:
    """Start the server and wait until it takes connections. The caller holds the lock.

    Raises:
        DatabaseUnreachable: it does not come up, with the last line of its log.
    """
    until = time.monotonic() + START_SECONDS
    _put_log_aside(at)
    while True:
        _forget_the_dead(at)
        written = at.log.stat().st_size if at.log.exists() else 0
        try:
            account.run(_start_command(at, programs), seconds=PG_CTL_SECONDS + START_SECONDS)
        except DatabaseUnreachable as error:
            if living(at) is None:
                told = _last_line(at.log, after=written)
                # after a kill -9 the old server's children still hold its memory for a moment
                if ("still in use" not in told and "lock file" not in told) or time.monotonic() > until:
                    raise DatabaseUnreachable(
                        f"the embedded PostgreSQL does not start: {told or error.message}", hint=f"Its log is {at.log}."
                    ) from error
                time.sleep(PAUSE_SECONDS)
                continue
        wait_until_ready(at, until=until)
        return


def wait_until_ready(at: Places, *, until: float) -> None:
    """Wait for a server that lives to take connections, at most until that time (monotonic).

    Raises:
        DatabaseUnreachable: it ends, or is not ready in time.
    """
    while time.monotonic() < until:
        found = living(at)
        if found is None:
            raise DatabaseUnreachable(
                f"the embedded PostgreSQL ended while it started: {_last_line(at.log)}", hint=f"Its log is {at.log}."
            )
        if found.status == "ready" and accepts(found.socket):
            return
        time.sleep(PAUSE_SECONDS)
    raise DatabaseUnreachable("the embedded PostgreSQL is not ready yet", hint=f"Its log is {at.log}.")


def stop(at: Places, account: Account, programs: Path) -> None:
    """Stop the server, cutting off who is connected. The caller holds the lock; stopping what does not run is no fault."""
    if living(at) is not None:
        account.run(
            [programs / "pg_ctl", "stop", "-s", "-w", "-m", "fast", "-t", str(STOP_SECONDS), "-D", at.data],
            seconds=STOP_SECONDS + PG_CTL_SECONDS,
        )


def _start_command(at: Places, programs: Path) -> list[str | Path]:
    files = {"config_file": at.configuration, "hba_file": at.authentication}
    options = " ".join(
        f"-c {shlex.quote(f'{name}={path}')}" for name, path in files.items()
    )  # pg_ctl gives it to a shell
    ends: list[str | Path] = ["-s", "-w", "-t", str(PG_CTL_SECONDS), "-D", at.data, "-l", at.log, "-o", options]
    return [programs / "pg_ctl", "start", *ends]


def _forget_the_dead(at: Places) -> None:
    # PostgreSQL checks its shared memory besides, so that children of the dead one still keep a second server out
    file = at.data / "postmaster.pid"
    pid = _first_number(file)
    if pid is None and file.exists():
        # a crash or a full disk came between its making and its first line; whoever makes it now writes that at once
        time.sleep(HALF_WRITTEN_SECONDS)
        pid = _first_number(file)
    if pid is None or not _serves(pid, at.data):
        file.unlink(missing_ok=True)


def _first_number(file: Path) -> int | None:
    try:
        return int(file.read_text(errors="replace").partition("\n")[0])
    except (FileNotFoundError, ValueError):
        return None


def _serves(pid: int, data: Path) -> bool:
    """Tell whether that process is the server of that cluster; a zombie has no command line any more."""
    try:
        return os.fsencode(data) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):  # the second: it ended between the opening and the reading
        return not Path("/proc/self/cmdline").exists()  # without a /proc nobody can tell: PostgreSQL decides


def _put_log_aside(at: Places) -> None:
    if at.log.exists() and at.log.stat().st_size > LOG_BYTES:
        at.log.replace(at.log.with_name("server.log.old"))


def _last_line(log: Path, *, after: int = 0) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(after, log.stat().st_size - LOG_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    told = [line for line in lines if "FATAL" in line or "PANIC" in line] or lines[-1:]
    return told[-1].strip() if told else ""
