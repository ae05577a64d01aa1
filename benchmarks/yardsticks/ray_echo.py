"""Peer: an echo by an actor of Ray, whose object store shares memory too: in by a copy, out by a copy and a view.

`python benchmarks/yardsticks/ray_echo.py CPUS SIZE ...` prints the median milliseconds of each size, pinned to these CPUs
(a comma between them). It takes an interpreter that has Ray, which MER does not need.
"""

import json
import os
import statistics
import sys
import time

os.environ["RAY_DISABLE_IMPORT_WARNING"] = "1"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

REPEATS = 15
STORE_BYTES = 2 << 30


def main() -> None:
    os.sched_setaffinity(0, {int(text) for text in sys.argv[1].split(",")})  # Ray's processes inherit it
    import numpy as np
    import ray

    ray.init(num_cpus=2, object_store_memory=STORE_BYTES, include_dashboard=False, log_to_driver=False)

    @ray.remote
    class Echo:
        def infer(self, array: "np.ndarray") -> "np.ndarray":
            return array

    echo = Echo.remote()
    medians = {}
    for size in map(int, sys.argv[2:]):
        array = np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)
        times = []
        for _ in range(REPEATS + 5):
            start = time.perf_counter()
            out = ray.get(echo.infer.remote(array))
            times.append(time.perf_counter() - start)
            del out
        medians[str(size)] = round(statistics.median(times[5:]) * 1e3, 3)
    print(json.dumps(medians))
    ray.shutdown()


if __name__ == "__main__":
    main()
