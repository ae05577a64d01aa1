"""Failures in the author's own words: a message, and the traceback without our own frames."""

from __future__ import annotations

import importlib
import os

from mer_worker.wire import MAX_ERROR_TEXT, U32, Kind, WireError, frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Optional

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_BEFORE_THE_AUTHORS = (_OURS, importlib.__file__, "<frozen importlib")


class Failure(Exception):
    """A failure that already has its words. `code` says what happened, `kind` whose fault it is."""

    def __init__(self, kind: str, code: str, message: str, traceback: Optional[str] = None) -> None:
        super().__init__(message)
        self.kind = kind
        """`model`, `load`, `input`, `output`, `protocol`, `cancelled` or `lost`."""
        self.code = code
        self.message = message
        self.traceback = traceback
        self.ends = kind == "lost"
        """Whether the worker ends with it."""


def of_model(error: BaseException, kind: str, doing: str) -> Failure:
    """Return the failure that the author's code has raised while `doing` something."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, WireError):
        return Failure("output", "output-invalid", f"the model's output: {error}")
    if isinstance(error, SystemExit):
        return Failure(kind, "exit", f"sys.exit({error.code!r}) {doing}", traceback_of(error))
    if isinstance(error, MemoryError):
        return Failure(kind, "out-of-memory", f"out of memory {doing}", traceback_of(error))
    name = type(error).__qualname__
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the author's own __str__ may raise anything
        text = "(its message cannot be read)"
    return Failure(kind, "raised", f"{name}: {text}" if text else name, traceback_of(error))


def traceback_of(error: BaseException) -> Optional[str]:
    """Return the traceback as Python prints it, from the author's first frame on; None where it has none of his."""
    import traceback  # 0.6 MB, and most workers never fail

    step = error.__traceback__
    while step is not None and not step.tb_frame.f_code.co_filename.startswith(_OURS):
        step = step.tb_next  # the caller's own frames, where the handler runs in his process
    while step is not None and step.tb_frame.f_code.co_filename.startswith(_BEFORE_THE_AUTHORS):
        step = step.tb_next
    if step is None and not isinstance(error, SyntaxError):
        return None
    return "".join(traceback.format_exception(type(error), error.with_traceback(step), step))


def error_frame(
    failure: Failure, request: int, *, number: int = 0, meta: Optional[Mapping[str, object]] = None
) -> bytes:
    """Return the frame that says so; texts are cut in the middle at their cap.

    `number` is how many microseconds the handler ran before, 0 where it did not; `meta` as of a result.
    """
    fields: dict[str, object] = {"kind": failure.kind, "code": failure.code, "message": _cut(failure.message)}
    if failure.traceback:
        fields["traceback"] = _cut(failure.traceback)
    if failure.ends:
        fields["ends"] = True
    if meta:
        fields["meta"] = meta
    return frame(Kind.ERROR, fields, request=request, number=min(number, U32))


def _cut(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate would make the frame no UTF-8
    if len(text) <= MAX_ERROR_TEXT:
        return text
    half = MAX_ERROR_TEXT // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
