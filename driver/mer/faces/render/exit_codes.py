"""The table of exit codes in docs/exit-codes.md, made from the error classes, so that it cannot be wrong.

python -m mer.faces.render.exit_codes > docs/exit-codes.md
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

from mer.core import errors
from mer.core.errors import MerError

HEAD = """\
# Exit codes

What `mer` exits with, and the errors behind each code. With `--json` an error is one JSON object on stderr,
`{"error": {"code": …, "message": …, "hint": …, "exit_code": …, "retryable": …}}`, where `code` is a name of the third
column. A retry can help where the last column says so: the same command, unchanged, may succeed later.

| exit code | what it means | errors | retry |
|---|---|---|---|
| 0 | Done. | | |
"""


def document() -> str:
    """Return the text of docs/exit-codes.md."""
    by_code: dict[int, list[type[MerError]]] = {}
    for error in _family(MerError):
        by_code.setdefault(error.exit_code, []).append(error)
    return HEAD + "".join(_row(code, by_code[code]) for code in sorted(by_code))


def _family(error: type[MerError]) -> Iterator[type[MerError]]:
    if error.__module__ == errors.__name__:  # a test's own subclass is none of ours
        yield error
        for derived in error.__subclasses__():
            yield from _family(derived)


def _row(code: int, classes: list[type[MerError]]) -> str:
    meaning = (inspect.getdoc(classes[0]) or "").split("\n")[0]
    names = ", ".join(f"`{error().code}`" for error in classes)
    can_retry = [error for error in classes if error.retryable]
    retry = "yes" if len(can_retry) == len(classes) else ", ".join(f"`{error().code}`" for error in can_retry)
    return f"| {code} | {meaning} | {names} | {retry} |\n"


if __name__ == "__main__":
    sys.stdout.write(document())
