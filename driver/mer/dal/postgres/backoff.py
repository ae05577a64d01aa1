"""How long to wait before a server is asked again: longer each time, and never all at the same moment.

Every driver of a team loses its connections when the server restarts. Without jitter they would come back as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

FIRST_SECONDS = 0.05
"""A server that was restarted fast is back after some of these."""

LONGEST_SECONDS = 1.0
"""A server that came back stands idle no longer than this, and one that is down is asked no more often."""

Random = Callable[[], float]
"""Gives numbers from 0 to below 1, evenly."""


def pauses(random: Random) -> Iterator[float]:
    """Give the seconds to wait before each further try, without end: half of each is chance."""
    longest = FIRST_SECONDS
    while True:
        yield longest * (0.5 + random() / 2)
        longest = min(longest * 2, LONGEST_SECONDS)
