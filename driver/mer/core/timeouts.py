"""Timeouts as callers give them: seconds from now, finite and above zero, or none."""

from __future__ import annotations

import math

from mer.core.errors import UsageError


def check_timeout(seconds: float | None) -> float | None:
    """Return `seconds` if one can wait for so long.

    Raises:
        UsageError: it is no number, not finite, or not above zero; None is how to wait without an end.
    """
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds <= 0:
        raise UsageError(f"a timeout is a finite number of seconds above 0, not {seconds!r}")
    return seconds
