"""What the engine answers, statement by statement: which of them failed, and why.

`query()` of the client library reports only that a transaction failed; the cause stands in the raw answer, in one of
its statements, among others that were "not executed" because of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mer.core.errors import ConcurrentChange, DatabaseUnreachable, InputInvalid, MerError, NotAllowed, NotMigrated
from mer.dal.surreal.engines import in_memory

_DENIED = re.compile(r"An error occurred: mer:denied|IAM error: Not enough permissions")
_REASON = re.compile(r"An error occurred: mer:([a-z-]+)")
_TAKEN = re.compile(r"Database (?:index|record) .* already (?:contains|exists)", re.DOTALL)
_NO_TABLE = re.compile(r"The table '.*' does not exist")
_UNFIT = re.compile(r"Couldn't coerce value|but field must conform to|Found field|Expected .* but found|mer:unfit")
_CONSEQUENCES = frozenset({"NotExecuted", "Cancelled"})

RIGHTS = (
    "An auditor only reads, and nobody but the owner (MIGRATIONS_DB_USERNAME, with `mer-migrate`) changes the schema."
    " `mer-migrate upgrade` gives the rights that DRIVER_DB_USERNAME should have."
)
"""What to do where a login lacks a right."""

MAX_MESSAGE = 2000
"""Characters of the database's own message that are passed on: it may quote a whole row."""


class Conflicted(ConcurrentChange):
    """Another has changed the same at the same moment, and the engine took this one back: it may be run again as it is."""

    def __init__(self, *, in_memory: bool) -> None:
        super().__init__()
        self.in_memory = in_memory
        """Whether the engine keeps its data in memory: then it does not take back each that it should."""


class Refused(Exception):
    """A query refused for a reason that its repository has a name for."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """The statement (counted from 0 in the script that was sent) that failed, and the database's own message."""

    statement: int
    message: str
    conflict: bool

    @property
    def denied(self) -> bool:
        """Whether the login lacks the right."""
        return _DENIED.search(self.message) is not None

    def error(self) -> Exception:
        """Return what a query's failure means: `Refused` for what its repository names, else an error of mer's."""
        if self.conflict:
            return Conflicted(in_memory=in_memory(self.message))
        if self.denied:
            return NotAllowed("the database does not allow this to whom mer logs in as", hint=RIGHTS)
        if _NO_TABLE.search(self.message):
            return NotMigrated()
        if _TAKEN.search(self.message):
            return Refused("taken")
        if _UNFIT.search(self.message):
            return InputInvalid(f"the database cannot hold this: {self.message[:MAX_MESSAGE]}")
        if reason := _REASON.search(self.message):
            return Refused(reason[1])
        return DatabaseUnreachable(f"the database failed: {self.message[:MAX_MESSAGE]}")


def results(answer: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the results of a script's statements.

    Raises:
        MerError: the script itself was refused, which is a bug of ours.
    """
    if "result" not in answer:
        error = answer.get("error")
        message = error.get("message") if isinstance(error, Mapping) else error
        raise MerError(f"the database refused a script: {str(message)[:MAX_MESSAGE]}")
    found: Sequence[Mapping[str, Any]] = answer["result"]
    return found


def failure(statements: Sequence[Mapping[str, Any]]) -> Failure | None:
    """Return the failure that made the others fail; None where every statement is OK."""
    first: Failure | None = None
    for number, statement in enumerate(statements):
        if statement["status"] == "OK":
            continue
        details = statement.get("details") or {}
        kind = details.get("kind") if isinstance(details, Mapping) else None
        found = Failure(
            statement=number,
            message=str(statement["result"]),
            conflict=kind == "TransactionConflict",
        )
        if kind not in _CONSEQUENCES:
            return found
        first = first or found
    return first
