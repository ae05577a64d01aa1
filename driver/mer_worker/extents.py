"""Places in a memory: who asks gets the first free one that is large enough.

The lowest address first, because pages that were used before lie there: they are in the caches, and cost no page fault.
For one request after the other that is the place given back last. Pure bookkeeping, no byte is touched.
"""

from __future__ import annotations

from bisect import bisect_left

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Optional


class Extents:
    """What of the range from `first` to `end` is taken. All lengths are multiples of `grain`."""

    __slots__ = ("_ends", "_grain", "_starts", "taken", "used")

    def __init__(self, first: int, end: int, grain: int) -> None:
        self._grain = grain
        self._starts = [first]
        self._ends = [end]
        """The free stretches by address; no two of them touch."""
        self.taken: dict[int, int] = {}
        """Where each taken extent begins, and how long it is."""
        self.used = 0
        """Bytes of them together."""

    def take(self, size: int) -> Optional[int]:
        """Take a place for `size` bytes, at least one, and return where it begins; None where nothing is free for it."""
        size += -size % self._grain
        starts, ends = self._starts, self._ends
        for at, start in enumerate(starts):
            if ends[at] - start >= size:
                if ends[at] - start == size:
                    del starts[at], ends[at]
                else:
                    starts[at] = start + size
                self.taken[start] = size
                self.used += size
                return start
        return None

    def give(self, start: int) -> None:
        """Give a place back.

        Raises:
            KeyError: none that is taken begins there.
        """
        size = self.taken.pop(start)
        self.used -= size
        end = start + size
        starts, ends = self._starts, self._ends
        at = bisect_left(starts, start)
        joins_left = at > 0 and ends[at - 1] == start
        joins_right = at < len(starts) and starts[at] == end
        if joins_left and joins_right:
            ends[at - 1] = ends[at]
            del starts[at], ends[at]
        elif joins_left:
            ends[at - 1] = end
        elif joins_right:
            starts[at] = start
        else:
            starts.insert(at, start)
            ends.insert(at, end)

    def free(self) -> Iterator[tuple[int, int]]:
        """Yield the free stretches, start and end, by address."""
        return zip(list(self._starts), list(self._ends))
