"""MER's errors as error frames: the other way round than mer.meal.failing, which reads them on the guest's side."""

from __future__ import annotations

from mer.core.errors import (
    Busy,
    DeadlineExceeded,
    InputInvalid,
    Interrupted,
    LimitExceeded,
    MerError,
    ModelFailed,
    NotFound,
    Unreachable,
    UsageError,
    WorkerLost,
)
from mer.faces.serve_ssh.refusals import for_guest
from mer_worker.failures import Failure
from mer_worker.wire import WireError

NOT_LENT = "not-lent"
"""The code of an error of kind `load`: there is no such version here, or none that this guest may run."""


def not_lent() -> MerError:
    """Return the error for digests of which no version is lent."""
    return NotFound("no version of these digests is lent by this key", hint="`model show MODEL` tells what is.")


def failure_of(error: MerError | WireError) -> Failure:
    """Return what a frame says of an error: what a guest is told, under the kind that gives him the same exit code."""
    if isinstance(error, WireError):
        return Failure("protocol", "bad-head", str(error))
    told = for_guest(error)
    match told:
        case LimitExceeded():
            return Failure("limit", told.limit, told.message)
        case ModelFailed():
            return Failure("model", "raised", told.message)
        case DeadlineExceeded():
            return Failure("limit", "wall", told.message)
        case InputInvalid() | UsageError():
            return Failure("input", "input-invalid", told.message)
        case Interrupted():
            return Failure("cancelled", "cancelled", told.message)
        case WorkerLost():
            return Failure("lost", told.code, told.message)  # the guest's MER begins another conversation
        case NotFound():
            return Failure("load", NOT_LENT, told.message)
        case Busy() | Unreachable():
            return Failure("busy", told.code, told.message)
        case _:
            return Failure("load", told.code, told.message)
