"""Named queries: each repository's stand beside it in queries/NAME.surql, with a sentence on what each is for.

A query begins with `-- name: description.` at the start of a line and ends where the next begins. Its last statement's
result is its answer. What a query refuses, it throws as `mer:REASON`; the repository says which error each reason is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_HEADING = re.compile(r"^-- (?P<name>[a-z_]+): (?P<description>.+)$", re.MULTILINE)
_CHANGING = re.compile(r"\b(CREATE|INSERT|UPDATE|UPSERT|DELETE)\b")
_PARAMETER = re.compile(r"\$(?!parent\b)([a-z_]+)")
_VOLATILE = re.compile(r"\btime::now\(\)")

_OUT_OF_TURN = frozenset({"access_log", "leases", "migrations"})
"""The head of the log is a turn of its own, and nothing is decided by leases that another writes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """One query: statements that end in a semicolon each."""

    name: str
    description: str
    text: str
    single: bool
    """One statement is a transaction by itself."""
    changes: bool
    repeatable: bool
    """Whether it may run twice where an answer was lost."""
    in_turn: bool
    """Whether it changes the registry, whose changes come one after the other."""
    volatile: bool
    """Whether its answer differs from call to call though nothing was changed."""

    def numbered(self, step: int) -> str:
        """Return the text with every parameter renamed, so that several queries can stand in one script."""
        return _PARAMETER.sub(rf"$s{step}_\1", self.text)


def numbered_name(step: int, parameter: str) -> str:
    """Return the name that `Query.numbered` gives to a parameter."""
    return f"s{step}_{parameter}"


@cache
def load(repository: str) -> dict[str, Query]:
    """Read the queries of one repository, by name."""
    source = files(__package__).joinpath("queries", f"{repository}.surql").read_text("utf-8")
    headings = list(_HEADING.finditer(source))
    ends = [heading.start() for heading in headings[1:]] + [len(source)]
    queries = {}
    for heading, end in zip(headings, ends, strict=True):
        lines = source[heading.end() : end].splitlines()
        text = "\n".join(line for line in lines if line.strip() and not line.startswith("--"))
        queries[heading["name"]] = Query(
            name=f"{repository}.{heading['name']}",
            description=heading["description"],
            text=text,
            single=text.count(";") == 1,
            changes=bool(_CHANGING.search(text)),
            repeatable=not _CHANGING.search(text),
            in_turn=bool(_CHANGING.search(text)) and repository not in _OUT_OF_TURN,
            volatile=bool(_VOLATILE.search(text)),
        )
    return queries
