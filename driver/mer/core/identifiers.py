"""UUIDv7 (RFC 9562, section 5.7): identifiers that sort by the time they were made."""

from __future__ import annotations

import os
import time

_AT_ONCE = 64
"""Tails that are made together: to ask the system for random bytes each time costs more than all the rest of this."""

_RANDOM = (1 << 76) - 1 & ~(0xC << 60)
"""The 74 bits behind the time that are neither version nor variant."""
_FIXED = 0x7 << 76 | 0x8 << 60
"""Version 7, and the RFC's variant."""

_tails: list[str] = []
_now = 0, ""
"""The last millisecond, and how identifiers of it begin: small calls have many to one."""


def uuid7() -> str:
    """Return a new identifier: 48 bits of Unix milliseconds, then 74 random bits."""
    global _now  # set as a whole: a thread sees one or the other
    try:
        tail = _tails.pop()
    except IndexError:
        made = _make_tails()
        tail = made.pop()
        _tails.extend(made)
    milliseconds = time.time_ns() // 1_000_000
    known, stamp = _now
    if known != milliseconds:
        text = f"{milliseconds & (1 << 48) - 1:012x}"
        stamp = f"{text[:8]}-{text[8:]}-"
        _now = milliseconds, stamp
    return stamp + tail


def _make_tails() -> list[str]:
    """Return what may stand behind the time: version, variant and random bits."""
    drawn, tails = os.urandom(10 * _AT_ONCE), []
    for at in range(0, len(drawn), 10):
        text = f"{int.from_bytes(drawn[at : at + 10], 'big') & _RANDOM | _FIXED:020x}"
        tails.append(f"{text[:4]}-{text[4:8]}-{text[8:]}")
    return tails


os.register_at_fork(after_in_child=_tails.clear)  # a child that went on with them would give what its parent gives
