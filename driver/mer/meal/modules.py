"""What to do about a module that a model imports and a host lacks: which one, where, for which interpreter."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mer.meal.peer import text

if TYPE_CHECKING:
    from mer.core.errors import ModelFailed
    from mer.meal.host import Host
    from mer.meal.session import Session

_MISSING = re.compile(r"ModuleNotFoundError: No module named '([^']{1,200})'")
"""How a worker names what Python's import did not find (mer_worker/failures.py)."""


def hint_for(error: ModelFailed, *, host: Host, session: Session) -> str | None:
    """Return how the module is provided that an error is about; None where it is about something else."""
    found = _MISSING.match(error.message)
    interpreter = "" if session.peer is None else text(session.peer.hello, "interpreter")
    if found is None or not interpreter:
        return None
    module = found[1].partition(".")[0]
    hint = f"{host.name} runs it by {interpreter}: install what provides {module} for that one ({interpreter} -m pip install …)"
    return f"{hint}, or name another one that has it: {host.choice_of_python}" if host.choice_of_python else f"{hint}."
