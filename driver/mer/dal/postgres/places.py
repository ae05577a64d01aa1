"""Where the embedded server keeps what: paths, their owners and modes, and a socket path that the system accepts."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from mer.core.errors import ConfigurationError
from mer.dal.postgres.account import Account
from mer.folders import PRIVATE, TRAVERSABLE, own_folder

SOCKET_NAME = ".s.PGSQL.5432"
MAX_SOCKET_PATH = 103
"""Bytes of a Unix socket's path: 107 on Linux, 103 on macOS, and one limit for both."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """The folders and files of one embedded server."""

    home: Path
    socket: Path

    @property
    def data(self) -> Path:
        """The cluster; it exists only whole."""
        return self.home / "data"

    @property
    def passwords(self) -> Path:
        """A folder with one 0600 file a role."""
        return self.home / "passwords"

    @property
    def logs(self) -> Path:
        """Where the server writes what it has to say."""
        return self.home / "log"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.logs / "server.log"

    @property
    def configuration(self) -> Path:
        """The server's settings, written anew at every start."""
        return self.home / "postgresql.conf"

    @property
    def authentication(self) -> Path:
        """Who may log in how, written anew at every start."""
        return self.home / "pg_hba.conf"

    @property
    def lock(self) -> Path:
        """Held while somebody makes, starts or stops the server."""
        return self.home / "lock"

    @property
    def users(self) -> Path:
        """Held, shared, by every process that may be connected."""
        return self.home / "users"

    @property
    def watcher(self) -> Path:
        """Held by the process that stops the server when nobody uses it."""
        return self.home / "watcher"


def places(state_folder: Path, socket_folder: Path | None) -> Places:
    """Return the places under a state folder, without making any.

    Raises:
        ConfigurationError: the socket's path would be too long for the system.
    """
    home = state_folder.absolute() / "postgres"
    if socket_folder is not None:
        socket = socket_folder.absolute()
        if not _fits(socket):
            raise ConfigurationError(
                f"MER_SOCKET_FOLDER is too long for a socket: {socket} (at most {MAX_SOCKET_PATH - len(SOCKET_NAME) - 1} bytes)"
            )
        return Places(home=home, socket=socket)
    return Places(home=home, socket=home / "socket" if _fits(home / "socket") else _short(home))


def make_home(at: Places) -> None:
    """Make the state folder and the server's in it; for root both let the server's user pass through to what is its.

    Raises:
        FolderUnsafe: a wrong owner or mode, or a symbolic link.
    """
    mode = PRIVATE if os.geteuid() else TRAVERSABLE
    own_folder(at.home.parent, mode=mode)
    own_folder(at.home, mode=mode)


def make_folders(at: Places, account: Account) -> None:
    """Make what is missing within, and check that nobody else can reach into it. Raises: FolderUnsafe."""
    own_folder(at.passwords)
    for folder in (at.logs, at.socket):
        own_folder(folder, owner=account.uid)


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / SOCKET_NAME)) <= MAX_SOCKET_PATH


def _short(home: Path) -> Path:
    # One of our own, never under /tmp: whoever makes the folder first there can stand in for the server.
    runtime = Path("/run") if os.geteuid() == 0 else Path(f"/run/user/{os.geteuid()}")
    short = runtime / f"mer-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}"
    if not runtime.is_dir():
        raise ConfigurationError(
            f"the path of the embedded PostgreSQL's socket is too long: {home / 'socket'}",
            hint="Give a short folder of your own as MER_SOCKET_FOLDER.",
        )
    return short
