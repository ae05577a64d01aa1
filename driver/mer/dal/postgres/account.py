"""Whose processes the embedded server's are: this user's, or, for root, those of a system user of their own.

PostgreSQL refuses to run as root, and a server that runs as `nobody` shares its files with everything else that does.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mer.core.errors import ConfigurationError, DatabaseUnreachable

SYSTEM_USER = "mer-postgres"
"""Made once, when root first starts the server; it has no home, no shell and no password."""

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
"""All that the server and its tools see: PGDATA, PGPORT and the like of the user's would lead them elsewhere."""

USERADD_SECONDS = 30
"""useradd waits for locks on /etc/passwd; longer than this it is stuck."""

_FAULT = re.compile(r"\b(?:error|FATAL|PANIC|ERROR):")
"""How initdb and postgres begin such a line; LC_ALL=C keeps them from translating it."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user and group under which the server's programs run."""

    uid: int
    gid: int

    @property
    def ours(self) -> bool:
        """Whether that is this process's own user."""
        return self.uid == os.geteuid()

    def run(
        self, argv: Sequence[str | Path], *, seconds: float, text: str | None = None, holding: int | None = None
    ) -> str:
        """Run a program of the server's to its end and return what it printed; `text` is what it reads.

        It inherits the lock `holding`: where we are killed, nobody goes on before it has ended too.

        Raises:
            DatabaseUnreachable: it failed, with the line that says why, or took longer than `seconds`.
        """
        program = Path(argv[0]).name
        other = {} if self.ours else {"user": self.uid, "group": self.gid, "extra_groups": []}
        try:
            done = subprocess.run(
                [str(part) for part in argv],
                env=ENVIRONMENT,
                cwd="/",  # the current folder may be one that the server's user cannot enter
                umask=0o077,
                start_new_session=True,  # Ctrl-C in the terminal is for mer, not for a half-made cluster
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                input=text or "",
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
                pass_fds=() if holding is None else (holding,),
                **other,  # type: ignore[call-overload]
            )
        except subprocess.TimeoutExpired as error:
            raise DatabaseUnreachable(f"{program} of the embedded PostgreSQL took longer than {seconds:g} s") from error
        except OSError as error:
            raise DatabaseUnreachable(f"{program} of the embedded PostgreSQL cannot be run: {error}") from error
        if done.returncode:
            raise DatabaseUnreachable(
                f"{program} of the embedded PostgreSQL failed ({done.returncode}): {_reason(done.stdout)}"
            )
        return str(done.stdout)


def _reason(printed: str) -> str:
    """Return the line that says why: the last one is often only what was done about it."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    faults = [line for line in lines if _FAULT.search(line)]
    return (faults or lines or ["it said nothing"])[-1]


def server_account() -> Account:
    """Return the account that the server runs under; for root, `mer-postgres`, which is made if it is missing.

    Raises:
        ConfigurationError: the user cannot be made, or this one has no name, as in some containers.
    """
    if os.geteuid() != 0:
        try:
            pwd.getpwuid(os.geteuid())
        except KeyError:
            raise ConfigurationError(
                f"the embedded PostgreSQL needs a user with a name: uid {os.geteuid()} has no entry in /etc/passwd",
                hint="Add one, or give DB_CONNECTION_URL.",
            ) from None
        return Account(uid=os.geteuid(), gid=os.getegid())
    try:
        found = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        _make_system_user()
        found = pwd.getpwnam(SYSTEM_USER)
    return Account(uid=found.pw_uid, gid=found.pw_gid)


def _make_system_user() -> None:
    program = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    argv = [
        "--system",
        "--user-group",
        "--no-create-home",
        "--home-dir",
        "/nonexistent",
        "--shell",
        "/usr/sbin/nologin",
    ]
    hint = f"Make a system user {SYSTEM_USER} yourself, or give DB_CONNECTION_URL."
    if program is None:
        raise ConfigurationError(
            f"the embedded PostgreSQL needs the user {SYSTEM_USER}: there is no useradd", hint=hint
        )
    try:
        done = subprocess.run(
            [program, *argv, SYSTEM_USER],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=USERADD_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(f"the user {SYSTEM_USER} cannot be made: {error}", hint=hint) from error
    try:
        pwd.getpwnam(SYSTEM_USER)  # another first start may have made it between our look and our useradd
    except KeyError:
        raise ConfigurationError(f"the user {SYSTEM_USER} cannot be made: {done.stderr.strip()}", hint=hint) from None


def check_passage(path: Path, account: Account) -> None:
    """Make sure that the account can pass through every folder above `path`.

    Raises:
        ConfigurationError: it cannot. Opening somebody's home to it is not ours to do.
    """
    if account.ours:
        return
    for folder in path.absolute().parents:
        found = folder.stat()
        if found.st_uid == account.uid:
            passable = found.st_mode & stat.S_IXUSR
        elif found.st_gid == account.gid:
            passable = found.st_mode & stat.S_IXGRP
        else:
            passable = found.st_mode & stat.S_IXOTH
        if not passable:
            raise ConfigurationError(
                f"the embedded PostgreSQL runs as {SYSTEM_USER}, which cannot pass through {folder} to {path}",
                hint="Give another folder as MER_STATE_FOLDER; as root, /var/lib/mer is made for this.",
            )
