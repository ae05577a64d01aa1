"""Yardstick: what it costs to move bytes twice in memory that is already mapped, in and out of a model that computes nothing.

`python benchmarks/yardsticks/memcpy.py [BYTES ...]` prints medians in milliseconds.
"""

import json
import statistics
import sys
import time

import numpy as np

SIZES = (588 << 10, 16 << 20, 64 << 20)


def two_memcpys(size: int, repeats: int = 15) -> float:
    """Median seconds of copying `size` bytes to a second and on to a third warm buffer."""
    first = np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)
    second, third = np.zeros_like(first), np.zeros_like(first)
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        np.copyto(second, first)
        np.copyto(third, second)
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])


if __name__ == "__main__":
    sizes = [int(text) for text in sys.argv[1:]] or SIZES
    print(json.dumps({str(size): round(two_memcpys(size) * 1e3, 3) for size in sizes}))
