"""Callers at once on one batching worker: `LoadedModel.infer` of a 1 KiB echo, in calls a second, against bare exchanges.

    python benchmarks/callers.py [--callers 8] [--calls 24000] [--rounds 5] [--arrays buffer|numpy] [--quick]

The yardstick is one caller's bare ping-pong of yardsticks/pipe.py in the same run: a batch shares its exchange. Both are
pinned alike, on one CPU and on two, and measured in turns.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from yardsticks import pipe

from mer.core.specs import Batch
from mer.meal.library import load_unpacked
from mer.meal.loaded import WorkerModel
from mer.meal.local import LocalHost
from mer_worker.tensors import Buffer

SIZE = 1024
BARS = {"one": 0.5, "two": 1.6}
"""Calls a second over bare exchanges a second, with buffers."""

HANDLER = "def load():\n    return lambda batch: batch\n"


async def calls(folder: Path, count: int, callers: int, place: tuple[int, int], arrays: str) -> float:
    """Return the calls a second of all callers together."""
    host = LocalHost(scratch_folder=folder / "scratch", cache_folder=folder / "cache")
    before = os.sched_getaffinity(0)
    batch = Batch(max_size=callers)
    model = await load_unpacked(folder / "echo", entry="echo:load", arrays=arrays, host=host, batch=batch)
    async with model:
        assert isinstance(model, WorkerModel)
        pid = model.session.hello["pid"]
        for task in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(task), {place[1]})
        os.sched_setaffinity(0, {place[0]})

        async def caller(each: int) -> None:
            inputs: dict[str, Any]
            if arrays == "numpy":
                import numpy

                inputs = {"x": numpy.zeros(SIZE // 4, dtype="float32")}
            else:
                inputs = {"x": Buffer(os.urandom(SIZE), "float32", (SIZE // 4,))}
            for _ in range(each):
                await model.infer(inputs)

        await asyncio.gather(*(caller(50) for _ in range(callers)))
        start = time.perf_counter()
        await asyncio.gather(*(caller(count // callers) for _ in range(callers)))
        took = time.perf_counter() - start
        os.sched_setaffinity(0, before)
    return count // callers * callers / took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--calls", type=int, default=24_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--arrays", choices=("buffer", "numpy"), default="buffer")
    parser.add_argument("--quick", action="store_true", help="one round of 800 calls: to see that it runs")
    given = parser.parse_args()
    if given.quick:
        given.calls, given.rounds = 800, 1
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "echo").mkdir()
        (folder / "echo" / "echo.py").write_text(HANDLER)
        for cpus, place in pipe.places().items():
            bare, ours = [], []
            for _ in range(given.rounds):
                times = asyncio.run(pipe.exchanges(SIZE, max(300, given.calls // 8), place))
                bare.append(len(times) / sum(times))
                ours.append(asyncio.run(calls(folder, given.calls, given.callers, place, given.arrays)))
            ratio = statistics.median(ours) / statistics.median(bare)
            failed |= given.arrays == "buffer" and not given.quick and ratio < BARS[cpus]
            print(
                json.dumps(
                    {
                        "cpus": cpus,
                        "arrays": given.arrays,
                        "callers": given.callers,
                        "bare_exchanges_per_second": round(statistics.median(bare)),
                        "calls_per_second": round(statistics.median(ours)),
                        "ratio": round(ratio, 2),
                        "bar": BARS[cpus],
                    }
                )
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
