"""Memory for bodies that are received: aligned, and cheap to come by.

A new mapping costs a page fault for every 4 KiB, which is several times what copying them costs. So large bodies are mapped
by huge pages, and those in between get a place that was used before, once nobody looks at what came there.
"""

from __future__ import annotations

import mmap
from array import array

ALIGNMENT = 64
"""Bodies begin at multiples of this in memory, and segments within a body: a cache line, and what SIMD loads like."""

MAPPED_BYTES = 128 << 10
"""Bodies from this size on get pages of their own, which the kernel gives back at once when they die."""

HUGE_BYTES = 2 << 20
"""Bodies from this size on are mapped by huge pages, where the kernel has them: 16 MiB in 2 ms where it took 15."""

MOST_KEPT = 4
"""Places of HUGE_BYTES for the bodies below that: a caller looks at one answer while the next one comes, or at a few."""

_ZERO = array("B", b"\0")


def aligned(size: int) -> memoryview:
    """Return `size` writable bytes that begin at a multiple of ALIGNMENT.

    Raises:
        MemoryError: there is no room for them.
    """
    if size >= MAPPED_BYTES:
        return memoryview(_mapped(size))
    block = _ZERO * (size + ALIGNMENT - 1)
    skip = -block.buffer_info()[0] % ALIGNMENT
    return memoryview(block)[skip : skip + size]


class Bodies:
    """Memory for the bodies of one direction."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: list[mmap.mmap] = []

    def take(self, size: int) -> memoryview:
        """As `aligned`, perhaps with what has stood there before: whoever takes it writes all of it."""
        if not MAPPED_BYTES <= size < HUGE_BYTES:
            return aligned(size)
        for place in self._kept:
            if not _is_looked_at(place):
                return memoryview(place)[:size]
        if len(self._kept) == MOST_KEPT:
            return aligned(size)
        # as large as the largest, so that it does for every size: what nobody has written to has no pages
        place = _mapped(HUGE_BYTES, huge=False)
        self._kept.append(place)
        return memoryview(place)[:size]


def _is_looked_at(place: mmap.mmap) -> bool:
    """Whether there is a view of it, or a part of one, anywhere: only without any may a mapping be resized."""
    try:
        place.resize(len(place))
    except (BufferError, OSError, ValueError, SystemError):  # SystemError: a system whose mappings keep their size
        return True
    return False


def _mapped(size: int, *, huge: bool = True) -> mmap.mmap:
    try:
        # private: a shared anonymous mapping would be a file in shmem, slower to fault in
        place = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError) as error:
        raise MemoryError(f"no memory for {size} bytes: {error}") from error
    if huge and size >= HUGE_BYTES:
        try:
            place.madvise(mmap.MADV_HUGEPAGE)
        except (OSError, AttributeError):  # a kernel without them, or another system
            pass
    return place
