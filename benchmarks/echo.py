"""A warm call: `LoadedModel.infer` of a 1 KiB echo, against the bare exchange of yardsticks/pipe.py in the same run.

    python benchmarks/echo.py [--calls 4000] [--rounds 5] [--arrays buffer|numpy] [--quick]

Both are pinned alike, on one CPU and on two, and measured in turns, so that what else the machine does meets both.
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

from mer.meal.library import load_unpacked
from mer.meal.loaded import WorkerModel
from mer.meal.local import LocalHost
from mer_worker.tensors import Buffer

SIZE = 1024
BAR = 5.0
"""Times the bare exchange's p50, with buffers."""
MOST_RESIDENT = 20 * 1024
"""kB of a worker with the echo loaded."""

HANDLER = "def load():\n    return lambda inputs: inputs\n"


async def calls(folder: Path, count: int, place: tuple[int, int], arrays: str) -> tuple[list[float], int]:
    """Seconds of each warm call, and the worker's resident kB at the end."""
    host = LocalHost(scratch_folder=folder / "scratch", cache_folder=folder / "cache")
    before = os.sched_getaffinity(0)
    async with await load_unpacked(folder / "echo", entry="echo:load", arrays=arrays, host=host) as model:
        assert isinstance(model, WorkerModel)
        pid = model.session.hello["pid"]
        for task in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(task), {place[1]})
        os.sched_setaffinity(0, {place[0]})
        inputs: dict[str, Any]
        if arrays == "numpy":
            import numpy

            inputs = {"x": numpy.zeros(SIZE // 4, dtype="float32")}
        else:
            inputs = {"x": Buffer(os.urandom(SIZE), "float32", (SIZE // 4,))}
        times = []
        for _ in range(count):
            start = time.perf_counter()
            await model.infer(inputs)
            times.append(time.perf_counter() - start)
        os.sched_setaffinity(0, before)
        resident = int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])
    return times, resident


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--arrays", choices=("buffer", "numpy"), default="buffer")
    parser.add_argument("--quick", action="store_true", help="one round of 300 calls: to see that it runs")
    given = parser.parse_args()
    if given.quick:
        given.calls, given.rounds = 300, 1
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "echo").mkdir()
        (folder / "echo" / "echo.py").write_text(HANDLER)
        for cpus, place in pipe.places().items():
            bare, ours, resident = [], [], 0
            for _ in range(given.rounds):
                bare.append(pipe.summary(asyncio.run(pipe.exchanges(SIZE, given.calls, place))))
                times, resident = asyncio.run(calls(folder, given.calls, place, given.arrays))
                ours.append(pipe.summary(times))
            result: dict[str, Any] = {"cpus": cpus, "arrays": given.arrays}
            for key in ("p50", "p99"):
                yardstick = statistics.median(r[key] for r in bare)
                call = statistics.median(r[key] for r in ours)
                result |= {
                    f"bare_{key}_us": round(yardstick, 1),
                    f"call_{key}_us": round(call, 1),
                    f"ratio_{key}": round(call / yardstick, 2),
                }
            result["worker_resident_kb"] = resident
            if given.arrays == "buffer":
                failed |= result["ratio_p50"] > BAR or resident > MOST_RESIDENT
            print(json.dumps(result))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
