"""What to do about a module that a model imports and a host lacks, or has cut short: which one, where, for which interpreter."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mer.meal.peer import text

if TYPE_CHECKING:
    from mer.core.errors import MerError, ModelFailed
    from mer.meal.host import Host
    from mer.meal.session import Session

_MISSING = re.compile(r"ModuleNotFoundError: No module named '([^']{1,200})'")
"""How a worker names what Python's import did not find (mer_worker/failures.py)."""

_CUT_SHORT = "EOFError: marshal data too short"
"""What Python says of a compiled module of which a full disk took the beginning only (mer_worker/compiled.py)."""

_OF_THE_SYSTEM = ("/usr/bin/", "/bin/")
"""Where a distribution keeps its own Python, into which its pip may install nothing (PEP 668)."""


def hint_for(error: ModelFailed, *, host: Host, session: Session) -> str | None:
    """Return how the module is provided that an error is about; None where it is about something else."""
    if (hint := hint_at_cut_short(error, host=host)) is not None:
        return hint
    found = _MISSING.match(error.message)
    interpreter = "" if session.peer is None else text(session.peer.hello, "interpreter")
    if found is None or not interpreter:
        return None
    return hint_at_missing(found[1].partition(".")[0], interpreter, host=host)


def hint_at_missing(module: str, interpreter: str, *, host: Host) -> str:
    """Return how a module is provided for an interpreter that a host runs workers by."""
    hint = f"{host.name} runs it by {interpreter}: install what provides {module} for that one"
    if interpreter.startswith(_OF_THE_SYSTEM):
        hint += " as a package of the system, or in a virtual environment"
        hint += f" ({interpreter} -m venv FOLDER; FOLDER/bin/pip install …)"
        return f"{hint}, and name its interpreter: {host.choice_of_python}" if host.choice_of_python else f"{hint}."
    hint += f" ({interpreter} -m pip install …)"
    return f"{hint}, or name another one that has it: {host.choice_of_python}" if host.choice_of_python else f"{hint}."


def hint_at_cut_short(error: MerError, *, host: Host) -> str | None:
    """Return what is to be removed where a compiled module was cut short; None where the error is about something else."""
    if _CUT_SHORT not in error.message:
        return None
    return f"A full disk has cut short what Python compiled there. On {host.name}: rm -r {host.cache}/pycache"
