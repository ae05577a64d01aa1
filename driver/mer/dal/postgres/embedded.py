"""The private PostgreSQL of one state folder: it starts by itself, serves every `mer` of its user, and survives kill -9.

It listens on a socket in a 0700 folder and nowhere else, with SCRAM and generated passwords. Our own initdb and pg_ctl:
docs/decisions/01-own-initdb.md says why.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mer.core.errors import DatabaseUnreachable
from mer.dal.postgres import cluster, postmaster, watcher
from mer.dal.postgres.account import Account, check_passage, server_account
from mer.dal.postgres.binaries import programs_for
from mer.dal.postgres.connection_settings import STATEMENT_SECONDS, ConnectionSettings
from mer.dal.postgres.places import SOCKET_NAME, Places, make_folders, make_home, places
from mer.dal.postgres.presence import Presence
from mer.folders import PRIVATE, TRAVERSABLE, check_folder
from mer.locks import open_lock, try_lock

IDLE_SECONDS = 1800.0
"""After which a server that nobody uses is stopped, where the settings do not say."""

SHOWN = "postgresql (embedded)"
"""Its name for people, of which there is one a state folder."""

LOCK_SECONDS = 180.0
"""How long to wait while another process makes or starts the server: a first start after a crash takes the longest."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """What can be said of an embedded server without asking it."""

    running: bool
    pid: int | None
    data: Path
    socket: Path
    log: Path


class EmbeddedPostgres:
    """The server of one state folder. Everything here blocks: call it from a thread where a loop runs."""

    def __init__(
        self,
        state_folder: Path,
        socket_folder: Path | None = None,
        *,
        database: str = cluster.DATABASE,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """Look after the server in `state_folder`; it stops once nobody has used it for `idle_seconds`."""
        self._places = places(state_folder, socket_folder)
        self._database = database
        self._idle_seconds = idle_seconds
        self._presence = Presence(self._places.users)

    def ensure_running(self, *, statement_seconds: float = STATEMENT_SECONDS) -> ConnectionSettings:
        """Start the server unless it runs, making it the first time, and return the driver's login.

        It runs on until this object is left (`leave`) or gone. Where it runs already this costs one connection to its
        socket and no process.

        Raises:
            FolderUnsafe: a folder of it has a wrong owner or mode.
            ConfigurationError: its place or its version cannot be used.
            DatabaseUnreachable: it does not come up.
        """
        with _told(self._places):
            if not self._enters() or not self._runs():
                make_home(self._places)
                self._enters()
                with self._locked() as lock:
                    if not self._runs():
                        self._start(server_account(), lock)
            if not watcher.watched(self._places):
                watcher.spawn(self._places, idle_seconds=self._idle_seconds)
        return self._login(cluster.DRIVER, statement_seconds)

    def enter(self) -> bool:
        """Use the server if it runs, and tell whether it does; it runs on as `ensure_running` says."""
        with _told(self._places):
            return self._enters() and self._runs()

    def leave(self) -> None:
        """Let the server stop when nobody else uses it; leaving twice is no fault."""
        self._presence.leave()

    def driver(self, *, statement_seconds: float = STATEMENT_SECONDS) -> ConnectionSettings:
        """Return the driver's login, whether or not the server runs.

        Raises:
            DatabaseUnreachable: the server was never made.
        """
        return self._login(cluster.DRIVER, statement_seconds)

    def auditor(self, *, statement_seconds: float = STATEMENT_SECONDS) -> ConnectionSettings:
        """Return the login that may only read, whether or not the server runs. Raises: DatabaseUnreachable."""
        return self._login(cluster.AUDITOR, statement_seconds)

    def owner(self, *, statement_seconds: float = STATEMENT_SECONDS) -> ConnectionSettings:
        """Return the login of the tables' owner, which migrations use. Raises: DatabaseUnreachable."""
        return self._login(cluster.OWNER, statement_seconds)

    def superuser(self) -> ConnectionSettings:
        """Return the login that nothing of ours uses: it is for the owner of the machine. Raises: DatabaseUnreachable."""
        return self._login(cluster.SUPERUSER, STATEMENT_SECONDS)

    def stop(self) -> None:
        """Stop the server, cutting off who is connected; stopping what does not run is no fault."""
        with _told(self._places):
            if self._places.data.exists():
                with self._locked():
                    account = server_account()
                    postmaster.stop(self._places, account, programs_for(account, self._places.home))

    @property
    def made(self) -> bool:
        """Whether there is a cluster. Raises: DatabaseUnreachable (its folders cannot be read)."""
        with _told(self._places):
            try:
                self._places.data.lstat()
            except FileNotFoundError:
                return False
            return True

    def status(self) -> Status:
        """Say whether it runs, as which process and where. Raises: DatabaseUnreachable (its folders cannot be read)."""
        with _told(self._places):
            found = postmaster.living(self._places)
            socket = found.socket if found else self._places.socket
            return Status(
                running=found is not None and postmaster.accepts(socket),
                pid=found.pid if found else None,
                data=self._places.data,
                socket=socket,
                log=self._places.log,
            )

    def _enters(self) -> bool:
        """Be a user of the server from now on; False where its folder was never made."""
        mode = PRIVATE if os.geteuid() else TRAVERSABLE
        try:
            for folder in (self._places.home.parent, self._places.home):
                check_folder(folder, mode=mode, owner=os.geteuid())
        except FileNotFoundError:
            return False
        self._presence.enter(seconds=LOCK_SECONDS)
        return True

    def _runs(self) -> bool:
        return self._safe() and postmaster.accepts(self._socket())

    def _safe(self) -> bool:
        """Check the socket's folder; False where it is missing. Nobody else may answer in our place."""
        try:
            check_folder(self._socket(), owner=self._places.data.lstat().st_uid)
        except FileNotFoundError:
            return False
        return True

    def _socket(self) -> Path:
        """Return the folder that the server listens in: ours, or that of whoever started it with another setting."""
        at = self._places.socket
        if not (at / SOCKET_NAME).exists() and (found := postmaster.living(self._places)):
            return found.socket
        return at

    def _start(self, account: Account, lock: int) -> None:
        at = self._places
        check_passage(at.data, account)
        make_folders(at, account)
        programs = programs_for(account, at.home)
        if not cluster.exists(at, account):
            cluster.make(at, account, programs, lock=lock)
        cluster.check_version(at, programs)
        if found := postmaster.living(at):
            if found.status == "starting":  # whoever started it was killed while it waited
                postmaster.wait_until_ready(at, until=time.monotonic() + postmaster.START_SECONDS)
                return
            # it is stopping already, or it lost its socket: a runtime folder goes at logout
            postmaster.stop(at, account, programs)
        cluster.write_configuration(at)
        postmaster.start(at, account, programs)

    def _login(self, role: str, statement_seconds: float) -> ConnectionSettings:
        with _told(self._places):
            password = cluster.read_password(self._places, role)
            socket = self._socket()
        if password is None:
            raise DatabaseUnreachable("the embedded PostgreSQL was not made yet")
        return ConnectionSettings(
            shown=SHOWN,
            parameters={
                "host": str(socket),
                "port": "5432",
                "dbname": self._database,
                "user": role,
                "password": password,
            },
            hermetic=True,
            statement_seconds=statement_seconds,
        )

    @contextmanager
    def _locked(self) -> Iterator[int]:
        at = self._places
        make_home(at)
        descriptor = open_lock(at.lock)
        try:
            if not try_lock(descriptor, fcntl.LOCK_EX, seconds=LOCK_SECONDS):
                raise DatabaseUnreachable(
                    f"another process has been starting or stopping the embedded PostgreSQL for {LOCK_SECONDS:g} s",
                    hint=f"It holds {at.lock}.",
                )
            yield descriptor
        finally:
            os.close(descriptor)


@contextmanager
def _told(at: Places) -> Iterator[None]:
    """Translate what the system says of the server's files: a full disk, or a user who may not read them."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise DatabaseUnreachable(
            f"the embedded PostgreSQL cannot be used: {error.filename or at.home}: {error.strerror or error}",
            hint="The disk is full." if full else f"{at.home} is for the user who made it.",
        ) from error
