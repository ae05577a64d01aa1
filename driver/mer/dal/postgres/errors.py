"""psycopg's errors as mer's own: translated here once, by SQLSTATE, never by the text of a message.

Only where no connection came about there is nothing but words: refusals.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg
from psycopg import errors

from mer.core.errors import (
    AuthenticationFailed,
    BeingFilled,
    Busy,
    ConcurrentChange,
    ConfigurationError,
    DatabaseUnreachable,
    MerError,
    NotAllowed,
    NotMigrated,
    UsageError,
)
from mer.dal.filling import RESUMES

UPGRADE = "Run: mer-migrate upgrade"

READ_ONLY = "An auditor (--auditor, MER_AUDITOR) may only read; a standby server takes no changes either."

RIGHTS = (
    "`mer db status` tells the login: an auditor may only read. "
    "A driver that lacks rights gets them from `mer-migrate upgrade`, with the owner's login."
)

ENDED = frozenset({"25P03", "25P04", "40003", "57P01", "57P02", "57P04", "57P05"})
"""States with which a server ends a connection, beside those that begin with 08: it stops, or an idle or a whole
transaction took too long (a machine that slept in one meets that). Any other state is an answer, and asking again for it
would only be told the same."""

BEING_FILLED = "MER01"
"""The state in which mer.last_place refuses an append; the server's own begin with a digit, F0, HV, P0 or XX."""

Meanings = Mapping[str, MerError]
"""What a violated constraint means to a caller, by the constraint's name."""


class ConnectionLost(DatabaseUnreachable):
    """The connection to the database broke. Nobody knows whether what was under way has happened."""


class StillStarting(DatabaseUnreachable):
    """The database is starting up."""


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
    if error.sqlstate == BEING_FILLED:
        return BeingFilled(hint=RESUMES)
    match error:
        case errors.InvalidPassword() | errors.InvalidAuthorizationSpecification():
            return AuthenticationFailed(f"{shown} did not accept the login: {told}")
        case errors.CannotConnectNow():
            return StillStarting(f"{shown} is starting or stopping: {told}")
        case (
            errors.UndefinedTable() | errors.InvalidSchemaName() | errors.UndefinedFunction() | errors.UndefinedColumn()
        ):
            return NotMigrated(f"{shown} is not migrated: {told}", hint=UPGRADE)
        case errors.ReadOnlySqlTransaction():
            return NotAllowed(f"{shown} does not allow that: {told}", hint=READ_ONLY)
        case errors.InsufficientPrivilege():
            return NotAllowed(f"{shown} does not allow that: {told}", hint=RIGHTS)
        case errors.RestrictViolation():
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
        case errors.UndefinedObject() | errors.InvalidCatalogName():
            return ConfigurationError(f"{shown} is not there: {told}")
        case psycopg.DataError():
            return UsageError(f"{shown} cannot hold that: {told}")
        case psycopg.OperationalError() if (error.sqlstate or "").startswith("54"):  # a text too long for an index
            return UsageError(f"{shown} cannot hold that: {told}")
        case psycopg.IntegrityError():
            return UsageError(f"{shown} does not take that: {told}")
        case psycopg.OperationalError() | psycopg.InterfaceError() | psycopg.InternalError() if _lost(error):
            return ConnectionLost(f"{shown} cannot be reached: {told}")
        case psycopg.OperationalError():
            return DatabaseUnreachable(f"{shown} could not do that: {told}")
    return MerError(f"{shown}: {told}")


def _lost(error: psycopg.Error) -> bool:
    """Tell whether the connection is gone; where libpq itself says so, there is no state."""
    return error.sqlstate is None or error.sqlstate.startswith("08") or error.sqlstate in ENDED
