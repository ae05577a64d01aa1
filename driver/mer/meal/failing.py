"""What a worker's error frame means to an operator: the one place where its kinds become mer's errors."""

from __future__ import annotations

from mer.core.errors import (
    Busy,
    ContentMissing,
    ContentUnwritable,
    DigestMismatch,
    HandleUnknown,
    InputInvalid,
    Interrupted,
    MerError,
    ModelFailed,
    NotFound,
    PackageInvalid,
    ProtocolViolation,
    WorkerLost,
    limit_exceeded,
)

_IN_PARTS = "`stream` in place of `infer` or `run` gives them; a handler of batches cannot"


def error_of(*, kind: str, code: str, message: str, traceback: str | None) -> MerError:
    """Return the error for an error frame (docs/wire.md, "error")."""
    match kind:
        case "cancelled":
            return Interrupted("the request was cancelled")
        case "input" if code == "no-handle":
            return HandleUnknown(message)
        case "input" if code == "answers-in-parts":
            return InputInvalid(message, hint=_IN_PARTS)
        case "input":
            return InputInvalid(message)
        case "content" if code == "missing":
            return ContentMissing(message)
        case "content" if code in ("digest-mismatch", "damaged", "manifest-invalid"):
            return DigestMismatch(message)
        case "content":
            return ContentUnwritable(message)
        case "load" if code == "not-lent":
            return NotFound(message)
        case "load" if code == "weights-missing":
            return ContentMissing(message)
        case "load" if code == "weights-damaged":
            return DigestMismatch(message)
        case "load" if traceback is None:
            return PackageInvalid(message)  # found by us; what the author's code raised has a traceback
        case "model" | "output" | "load":
            return ModelFailed(message, traceback=traceback)
        case "lost":
            return WorkerLost(message)
        case "limit":
            return limit_exceeded(code, message, traceback=traceback)
        case "busy":
            return Busy(message)
        case _:
            return ProtocolViolation(f"{message} ({code})" if code else message)
