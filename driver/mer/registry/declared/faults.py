"""Every fault of a registry file in one refusal, each with its line: whoever mends it wants them all at once."""

from __future__ import annotations

from collections.abc import Iterable

from mer.core.carton.document import Fault
from mer.core.errors import RegistryFileInvalid
from mer.registry.declared.lines import Lines

MOST_FAULTS = 1000
"""Faults told of one file; past it, it is another file, given by mistake."""


def refuse(name: str, faults: Iterable[Fault], lines: Lines) -> None:
    """Refuse the file `name` if it has faults; they are told by line.

    Raises:
        RegistryFileInvalid
    """
    told = sorted({(lines.of(fault.path), str(fault)) for fault in faults})
    if not told:
        return
    words = [f"  line {line}: {fault}" for line, fault in told[:MOST_FAULTS]]
    if len(told) > MOST_FAULTS:
        words.append(f"  and {len(told) - MOST_FAULTS} more")
    count = "1 fault" if len(told) == 1 else f"{len(told)} faults"
    raise RegistryFileInvalid("\n".join([f"{name} has {count}, nothing was changed", *words]))
