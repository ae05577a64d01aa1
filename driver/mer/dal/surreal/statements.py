"""SurrealQL scripts, cut into their statements: so that an error can name the one that failed."""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""
    (?P<skip>    (?:--|//|\#)[^\n]* | /\*.*?\*/ )
  | (?P<quoted>  '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" | `(?:\\.|[^`\\])*` | ⟨[^⟩]*⟩ )
  | (?P<open>    [({\[] )
  | (?P<close>   [)}\]] )
  | (?P<end>     ; )
  | (?P<stray>   ['"`⟨] | /\* )
  | (?P<other>   [^-/\#'"`⟨⟩(){}\[\];]+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)

CONTROL = re.compile(r"(?:BEGIN|COMMIT|CANCEL|USE)\b", re.IGNORECASE)
"""What a script may not say: it runs in one transaction, on one database."""


class ScriptUnreadable(ValueError):
    """A quotation, a comment or a bracket has no end, or a statement may not stand in a script."""


def split(script: str) -> list[str]:
    """Return the statements of a script, without comments and semicolons.

    Raises:
        ScriptUnreadable: as its class says.
    """
    statements: list[str] = []
    current: list[str] = []
    depth = 0
    for token in _TOKEN.finditer(script):
        match token.lastgroup:
            case "skip":
                current.append(" ")
                continue
            case "stray":
                line = script.count("\n", 0, token.start()) + 1
                raise ScriptUnreadable(f"what begins with {token[0]} in line {line} has no end")
            case "open":
                depth += 1
            case "close":
                depth -= 1
            case "end" if depth == 0:
                statements.append("".join(current).strip())
                current = []
                continue
        current.append(token[0])
    if depth:
        raise ScriptUnreadable("its brackets do not match")
    statements.append("".join(current).strip())
    found = [statement for statement in statements if statement]
    for statement in found:
        if CONTROL.match(statement):
            raise ScriptUnreadable(f"{statement.split()[0]} may not stand in a script: it runs in one transaction")
    return found
