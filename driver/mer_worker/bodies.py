"""Memory for bodies that are received: aligned, and cheap to come by.

A new mapping costs a page fault for every 4 KiB, which is several times what copying them costs. So large bodies are mapped
by huge pages.
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


def _mapped(size: int) -> mmap.mmap:
    try:
        # private: a shared anonymous mapping would be a file in shmem, slower to fault in
        place = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError) as error:
        raise MemoryError(f"no memory for {size} bytes: {error}") from error
    if size >= HUGE_BYTES:
        try:
            place.madvise(mmap.MADV_HUGEPAGE)
        except (OSError, AttributeError):  # a kernel without them, or another system
            pass
    return place
