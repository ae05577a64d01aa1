"""The error tree: every failure that an operator can meet has a class, a message, an exit code and a hint.

    MerError 70
    ├── ModelFailed 1
    │   └── LimitExceeded
    ├── UsageError 2
    │   ├── ConfirmationNeeded
    │   └── AlreadyExists
    ├── InputInvalid 65
    ├── NotFound 66
    │   ├── ServerNotFound, ModelNotFound, VersionNotFound, AliasNotFound
    │   └── WeightsNotFound, PlacementNotFound, RecordNotFound, HandleUnknown, Retired
    ├── Unreachable 69
    │   ├── DatabaseUnreachable, ServerUnreachable
    │   └── FinishNotRecorded
    ├── ContentError 74
    │   └── ContentMissing, DigestMismatch, ContentUnwritable, BackupInvalid
    ├── Busy 75
    │   └── ConcurrentChange, DatabaseLocked
    ├── OutOfMemory 75
    ├── ProtocolError 76
    │   └── ProtocolViolation, ProtocolMismatch
    ├── NotAllowed 77
    │   └── ChangesNotAllowed, AuthenticationFailed, HostKeyRefused
    ├── ConfigurationError 78
    │   ├── NotMigrated, MigrationFailed, DatabaseNotEmpty, BeingFilled
    │   └── PackageInvalid, WeightsInvalid, RegistryFileInvalid, FolderUnsafe
    ├── LogNotVerified 79
    ├── DeadlineExceeded 124
    │   └── RunTooLong
    ├── WorkerLost 125
    └── Interrupted 130

A class's docstring is its default message, `exit_code` is what a one-shot exits with (the table in docs/exit-codes.md
is generated from here), `retryable` says whether the same call can succeed later without a change.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self


class MerError(Exception):
    """Something in MER went wrong that should not have: this is a bug."""

    exit_code: ClassVar[int] = 70
    retryable: ClassVar[bool] = False

    run_us: int = 0
    """Microseconds that the model ran before it failed, by its worker's clock; 0 where it did not, or nobody knows."""
    meta: Mapping[str, Any] = MappingProxyType({})
    """What its worker sent along, as a result's: a trace's steps."""

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        self.message = message or inspect.cleandoc(type(self).__doc__ or "").split("\n\n")[0]
        self.hint = hint
        super().__init__(self.message)

    def again(self, message: str | None = None) -> Self:
        """Return the same error for somebody else who is to be told of it, in these words if any are given.

        What was raised once belongs to whom it was raised for: its traceback, its context and its notes.
        """
        again = type(self).__new__(type(self))
        again.__dict__.update({name: value for name, value in self.__dict__.items() if name != "__notes__"})
        again.message = self.message if message is None else message
        again.args = (again.message,)
        return again

    @property
    def code(self) -> str:
        """The name under which records and `--json` know this error: the class's, in kebab case."""
        name = type(self).__name__
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")


class ModelFailed(MerError):
    """The model failed."""

    exit_code = 1

    def __init__(self, message: str | None = None, *, hint: str | None = None, traceback: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.traceback = traceback
        """The handler's own traceback, whole, in the model's words; None where it has none."""


class LimitExceeded(ModelFailed):
    """The model used more than its version may."""

    def __init__(
        self,
        message: str | None = None,
        *,
        hint: str | None = None,
        traceback: str | None = None,
        limit: str = "",
    ) -> None:
        super().__init__(message, hint=hint, traceback=traceback)
        self.limit = limit
        """Which one: `memory`, `cpu`, `open-files`, `processes`."""

    @property
    def code(self) -> str:
        """`limit:memory` and the like."""
        return f"limit:{self.limit}" if self.limit else super().code


class UsageError(MerError):
    """The command was not understood."""

    exit_code = 2


class ConfirmationNeeded(UsageError):
    """This needs a confirmation, and there is no terminal to ask on. Give --yes."""


class AlreadyExists(UsageError):
    """Something of this name is registered already."""


class InputInvalid(MerError):
    """The inputs do not fit the model's specs."""

    exit_code = 65


class NotFound(MerError):
    """Nothing of this name is registered."""

    exit_code = 66


class ServerNotFound(NotFound):
    """No such server."""


class ModelNotFound(NotFound):
    """No such model."""


class VersionNotFound(NotFound):
    """No such version."""


class AliasNotFound(NotFound):
    """No such alias."""


class WeightsNotFound(NotFound):
    """No such weights."""


class PlacementNotFound(NotFound):
    """The model has no placement on that server."""


class HandleUnknown(NotFound):
    """Nothing is sealed under this handle: it was used, released or kept for too long, or its worker has ended."""


class RecordNotFound(NotFound):
    """No such record in the access log."""


class Retired(NotFound):
    """It was retired."""


class Unreachable(MerError):
    """A server or the database cannot be reached."""

    exit_code = 69
    retryable = True


class DatabaseUnreachable(Unreachable):
    """The database cannot be reached."""


class ServerUnreachable(Unreachable):
    """The server did not answer. `mer server ping NAME` shows which step failed."""


class FinishNotRecorded(Unreachable):
    """The model answered, but the database went away before its finish could be recorded. It waits in the journal."""

    retryable = False  # the same call would run the model once more


class ContentError(MerError):
    """The content store failed."""

    exit_code = 74


class ContentMissing(ContentError):
    """Content is missing from the store."""


class DigestMismatch(ContentError):
    """Content does not have the digest under which it is known."""


class ContentUnwritable(ContentError):
    """The content store cannot be written."""

    retryable = True


class BackupInvalid(ContentError):
    """The file is no backup, or not a whole one."""


class Busy(MerError):
    """Everything that could serve this is busy. Try later."""

    exit_code = 75
    retryable = True


class ConcurrentChange(Busy):
    """Somebody else changed the same thing at the same moment. Try again."""


class DatabaseLocked(Busy):
    """Another process holds the database."""


class OutOfMemory(MerError):
    """There is no memory left for the answer."""

    exit_code = 75
    retryable = True


class ProtocolError(MerError):
    """The worker did not speak the protocol."""

    exit_code = 76


class ProtocolViolation(ProtocolError):
    """The worker sent something that the protocol does not allow."""


class ProtocolMismatch(ProtocolError):
    """The worker speaks another version of the protocol."""


class NotAllowed(MerError):
    """That is not allowed."""

    exit_code = 77


class ChangesNotAllowed(NotAllowed):
    """The registry is read-only: changes were not allowed for this driver.

    `-a/--allow-model-server-runtime-changes` or its environment variable allows them.
    """


class AuthenticationFailed(NotAllowed):
    """The database or the server did not accept the credentials."""


class HostKeyRefused(NotAllowed):
    """The server's host key is not the one that is trusted."""


class ConfigurationError(MerError):
    """The configuration is not usable."""

    exit_code = 78


class NotMigrated(ConfigurationError):
    """The database is not migrated to the schema that this program needs."""


class MigrationFailed(ConfigurationError):
    """A migration failed, and the database is as it was before it."""


class DatabaseNotEmpty(ConfigurationError):
    """The database holds something else than what was to be moved into it."""


class BeingFilled(ConfigurationError):
    """The database is being filled by a copy or a restore, or was when that was cut: it is not whole yet."""


class PackageInvalid(ConfigurationError):
    """The package cannot be used."""


class WeightsInvalid(ConfigurationError):
    """The weights cannot be used."""


class RegistryFileInvalid(ConfigurationError):
    """The registry file cannot be applied."""


class FolderUnsafe(ConfigurationError):
    """A folder of ours is not ours alone: wrong owner, wrong mode, or a symbolic link."""


class LogNotVerified(MerError):
    """The access log does not verify."""

    exit_code = 79


class DeadlineExceeded(MerError):
    """The deadline passed before the model answered."""

    exit_code = 124
    retryable = True


class RunTooLong(DeadlineExceeded):
    """The run took longer than the model's version may."""

    @property
    def code(self) -> str:
        """`limit:wall`, beside the other limits of a version."""
        return "limit:wall"


class WorkerLost(MerError):
    """The worker ended before it answered."""

    exit_code = 125
    retryable = True


class Interrupted(MerError):
    """Interrupted."""

    exit_code = 130


NOT_LET_IN = (ServerUnreachable, NotAllowed)
"""By what a worker cannot be started for its server's sake: another server may do."""


LIMIT_HINTS = {
    "memory": "--memory-limit of `mer model register` sets it, for a new version.",
    "cpu": "--cpu-limit of `mer model register` sets it, for a new version.",
    "open-files": "--open-files-limit of `mer model register` sets it, for a new version.",
    "processes": "--processes-limit of `mer model register` sets it, for a new version.",
    "wall": "--run-limit of `mer model register` sets it, for a new version.",
}


def limit_exceeded(limit: str, message: str, *, traceback: str | None = None) -> MerError:
    """Return the error of a model that went beyond a limit of its version."""
    hint = LIMIT_HINTS.get(limit)
    if limit == "wall":
        return RunTooLong(message, hint=hint)
    return LimitExceeded(message, hint=hint, traceback=traceback, limit=limit)
