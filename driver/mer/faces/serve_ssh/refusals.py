"""Errors as a guest is told of them: what is wrong with what he asked for, and not how the owner's machine is arranged."""

from __future__ import annotations

from mer.core.errors import (
    AuthenticationFailed,
    Busy,
    DeadlineExceeded,
    HostKeyRefused,
    InputInvalid,
    Interrupted,
    MerError,
    ModelFailed,
    ModelNotFound,
    NotAllowed,
    NotFound,
    RunTooLong,
    UsageError,
)

HIS_OWN = (InputInvalid, Interrupted, ModelFailed, NotAllowed, NotFound, RunTooLong, UsageError)
"""Whose messages are about the request. Others name paths, databases and servers."""

THE_OWNERS = (AuthenticationFailed, HostKeyRefused)
"""Kinds of NotAllowed, and yet about one of the owner's servers that does not let him in."""

OWNERS = "The owner of this machine can find out more."


def for_guest(error: MerError) -> MerError:
    """Return an error for a guest: of the same exit code, and without a model's traceback, which quotes its code."""
    if isinstance(error, THE_OWNERS) or not isinstance(error, HIS_OWN):
        told = type(error)()
        told.hint = None if isinstance(error, Busy | DeadlineExceeded) else OWNERS
        return told
    if isinstance(error, ModelNotFound):
        error.hint = "`model list` shows what this key may run."
    elif isinstance(error, NotFound):
        error.hint = "`model show MODEL` shows its versions and aliases."
    elif isinstance(error, ModelFailed):
        error.traceback = None
        error.hint = None  # to register it otherwise, or an interpreter of the server that it runs on
    return error
