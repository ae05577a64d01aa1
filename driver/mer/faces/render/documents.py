"""Results and errors as JSON, for programs."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import msgspec

from mer.core.errors import MerError, ModelFailed
from mer.core.records import Page


def encode(value: Any) -> str:
    """Return `value` as one line of JSON: records as objects, times in UTC with a `Z`."""
    return msgspec.json.encode(value, enc_hook=_other).decode()


def _other(value: object) -> str:
    if isinstance(value, PurePath):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} has no form in JSON")


def page_document(page: Page[Any]) -> dict[str, Any]:
    """Return a page: its items, and the key of the next page or null."""
    return {"items": page.items, "next": page.next}


def error_document(error: MerError) -> dict[str, Any]:
    """Return what a program needs to know of an error."""
    told: dict[str, Any] = {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "exit_code": error.exit_code,
        "retryable": error.retryable,
    }
    if isinstance(error, ModelFailed) and error.traceback:
        told["traceback"] = error.traceback
    return {"error": told}
