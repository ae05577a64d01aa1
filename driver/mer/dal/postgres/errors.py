"""psycopg's errors as mer's own: translated here once, by SQLSTATE, and by words where there is nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import errors

from mer.core.errors import (
    AuthenticationFailed,
    Busy,
    ConcurrentChange,
    ConfigurationError,
    DatabaseUnreachable,
    MerError,
    NotAllowed,
    NotMigrated,
    UsageError,
)

UPGRADE = "Run: mer-migrate upgrade"

Meanings = Mapping[str, MerError]
"""What a violated constraint means to a caller, by the constraint's name."""


class ConnectionLost(DatabaseUnreachable):
    """The connection to the database broke. Nobody knows whether what was under way has happened."""


class StillStarting(DatabaseUnreachable):
    """The database is starting up."""


MAX_TOLD = 600
"""Characters of why no connection came about: with several hosts, libpq tells of each."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One reason for which there is no connection, by the words of libpq's or of the server's that tell it."""

    words: tuple[str, ...]
    kind: type[MerError]
    meaning: str
    hint: str | None = None


REFUSALS = (
    # first what names a cause within what is also said of others
    Refusal(
        words=("certificate verify failed", "does not match host name", "could not get server's host name"),
        kind=AuthenticationFailed,
        meaning="did not prove that it is the one that is meant",
        hint=(
            "Its certificate is for another host, has expired, or is signed by none of `sslrootcert`. "
            "`openssl s_client -starttls postgres -showcerts -connect HOST:PORT` shows it."
        ),
    ),
    Refusal(
        words=("root certificate", "certificate file", "private key file", "certificate revocation list"),
        kind=ConfigurationError,
        meaning="cannot be verified, for a file is missing or cannot be used",
        hint="`sslrootcert` in the URL or PGSSLROOTCERT names the file of the authority that signed the server's certificate.",
    ),
    Refusal(
        words=("server does not support SSL",),
        kind=ConfigurationError,
        meaning="offers no TLS, which the URL or PGSSLMODE asks for",
        hint="Turn `ssl` on in that server's configuration; sslmode=disable only where nobody can listen.",
    ),
    Refusal(
        words=("no encryption",),
        kind=AuthenticationFailed,
        meaning="takes this login with TLS only",
        hint="Give sslmode=verify-full and sslrootcert=FILE in the URL.",
    ),
    Refusal(
        words=(
            "authentication failed",
            "no password supplied",
            "no pg_hba.conf entry",
            "pg_hba.conf rejects",
            "is not permitted to log in",
            "permission denied for database",
            "authentication method requirement",
        ),
        kind=AuthenticationFailed,
        meaning="did not accept the login",
        hint=(
            "DRIVER_DB_USERNAME and DRIVER_DB_PASSWORD say who `mer` is, MIGRATIONS_DB_… who `mer-migrate` is; "
            "what they leave out is taken from the URL, PG* variables and ~/.pgpass."
        ),
    ),
    Refusal(
        words=("is starting up", "shutting down", "not yet accepting connections", "in recovery mode"),
        kind=StillStarting,
        meaning="is starting or stopping",
    ),
    Refusal(
        words=("too many clients already", "connection slots are reserved", "too many connections for"),
        kind=Busy,
        meaning="takes no more connections",
        hint="Try later; `max_connections` of the server, or the limit of the role or the database, says how many.",
    ),
    Refusal(
        words=('" does not exist',),
        kind=ConfigurationError,
        meaning="is not there",
        hint="Its name stands at the end of the URL. CREATE DATABASE makes one, `mer-migrate upgrade` fills it.",
    ),
    Refusal(
        words=("definition of service", "service file"),
        kind=ConfigurationError,
        meaning="is named by a service that cannot be read",
        hint="PGSERVICE, or service= in the URL, means an entry of ~/.pg_service.conf.",
    ),
    Refusal(
        words=(
            "invalid sslmode value",
            "invalid integer value",
            "invalid port number",
            "invalid connection option",
            "invalid target_session_attrs",
        ),
        kind=ConfigurationError,
        meaning="is named with a value that is none",
    ),
)
"""The first that fits."""


@contextmanager
def translated(shown: str, meanings: Meanings | None = None) -> Iterator[None]:
    """Raise mer's errors for psycopg's in this block; `shown` is the database for people."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, shown, meanings or {}) from error
    except UnicodeEncodeError as error:  # a lone surrogate, which UTF-8 has no bytes for; psycopg passes it on
        raise UsageError(f"{shown} cannot hold that: it is not valid Unicode") from error


def translate(error: psycopg.Error, shown: str, meanings: Meanings) -> MerError:
    """Return what an error of psycopg's means."""
    told = (
        (error.diag.message_primary or str(error)).strip().splitlines()[0] if str(error).strip() else "no reason given"
    )
    if (meant := meanings.get(error.diag.constraint_name or "")) is not None:
        return meant
    match error:
        case errors.InvalidPassword() | errors.InvalidAuthorizationSpecification():
            return AuthenticationFailed(f"{shown} did not accept the login: {told}")
        case errors.CannotConnectNow():
            return StillStarting(f"{shown} is starting or stopping: {told}")
        case (
            errors.UndefinedTable() | errors.InvalidSchemaName() | errors.UndefinedFunction() | errors.UndefinedColumn()
        ):
            return NotMigrated(f"{shown} is not migrated: {told}", hint=UPGRADE)
        case errors.InsufficientPrivilege() | errors.RestrictViolation() | errors.ReadOnlySqlTransaction():
            return NotAllowed(f"{shown} does not allow that: {told}")
        case (
            errors.SerializationFailure()
            | errors.DeadlockDetected()
            | errors.LockNotAvailable()
            | errors.UniqueViolation()
        ):
            return ConcurrentChange(f"somebody else changed the same thing at the same moment: {told}")
        case errors.DiskFull():
            return DatabaseUnreachable(f"the disk of {shown} is full: {told}", hint="It goes on once there is space.")
        case errors.TooManyConnections():
            return Busy(f"{shown} takes no more connections: {told}")
        case errors.QueryCanceled() | errors.OutOfMemory():
            return DatabaseUnreachable(f"{shown} could not do that: {told}")
        case errors.UndefinedObject() | errors.InvalidCatalogName():
            return ConfigurationError(f"{shown} is not there: {told}")
        case psycopg.DataError():
            return UsageError(f"{shown} cannot hold that: {told}")
        case psycopg.IntegrityError():
            return UsageError(f"{shown} does not take that: {told}")
        case (
            psycopg.OperationalError() | psycopg.InterfaceError() | errors.IdleInTransactionSessionTimeout()
        ):  # the last one ends the connection: a machine that slept in a transaction meets it
            return ConnectionLost(f"{shown} cannot be reached: {told}")
    return MerError(f"{shown}: {told}")


def translate_connecting(error: psycopg.OperationalError, shown: str) -> MerError:
    """Return what it means that no connection came about.

    libpq gives no SQLSTATE here, so that words must do. A server that speaks another language is `cannot be reached`, with
    its words.
    """
    if error.sqlstate:
        return translate(error, shown, {})
    told = " ".join(str(error).split()).removeprefix("connection failed: ")
    for refusal in REFUSALS:
        if any(words in told for words in refusal.words):
            return refusal.kind(f"{shown} {refusal.meaning}: {_shortened(told)}", hint=refusal.hint)
    return DatabaseUnreachable(
        f"{shown} cannot be reached: {_shortened(told)}", hint="Is it running? `mer-migrate check` tells."
    )


def _shortened(told: str) -> str:
    return told if len(told) <= MAX_TOLD else f"{told[:MAX_TOLD]}…"
