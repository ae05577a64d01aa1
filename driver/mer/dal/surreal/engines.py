"""Servers whose engine loses changes that it has acknowledged, and by what they are known: MER does not work on those.

Of two transactions that write the same row at the same moment, one has to fail. In memory up to 3.2, and on files before
3.2, it may be that both are told as committed and one is gone: docs/decisions/17 has what was measured. Nothing that a
client can ask afterwards tells it in time, since the second may commit after the first has looked.
"""

from __future__ import annotations

import re

from mer.core.errors import ConfigurationError

OLDEST = (3, 2)
"""The oldest engine that was seen to keep what it acknowledges, on files. 3.0.5 did not (surrealdb issue 7303)."""

_VERSION = re.compile(r"(?:surrealdb-)?(\d+)\.(\d+)\.")
_MEMORY_CONFLICT = re.compile(r"(?:Read|Write) conflict, retry the transaction")
"""How the engine in memory, and no other, words a conflict. No server says of itself where it keeps its data."""


def check_version(name: str, told: str) -> None:
    """Check what a server says its version is.

    Raises:
        ConfigurationError: it is too old, or none that is known.
    """
    found = _VERSION.match(told)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ConfigurationError(
            f"{name} is {told[:100]!r}, and mer needs SurrealDB {oldest} or newer",
            hint="An older one can lose records of the access log when several drivers append at once.",
        )


def in_memory(conflict: str) -> bool:
    """Tell by its message of a conflict whether an engine keeps its data in memory."""
    return _MEMORY_CONFLICT.search(conflict) is not None


def forgets(name: str) -> ConfigurationError:
    """Return the error for a server in memory."""
    return ConfigurationError(
        f"{name} keeps its data in memory, where changes of several drivers at once are lost though it acknowledges them",
        hint="Start the server on files (surrealkv:// or rocksdb://) or on TiKV.",
    )
