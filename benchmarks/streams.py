"""A stream: parts a second of a generator in a worker, against the bare exchanges a second of yardsticks/pipe.py in the same run.

    python benchmarks/streams.py [--parts 10000] [--rounds 5] [--size 64] [--arrays buffer|numpy] [--quick]

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

BAR = 0.8
"""Parts for each bare exchange, on one CPU."""

HANDLER = """
def load(arrays, size):
    if arrays == "numpy":
        import numpy
        made = numpy.zeros(size // 4, "float32")
    else:
        from mer_worker.tensors import Buffer
        made = Buffer(bytes(size), "float32", (size // 4,))

    def handle(inputs):
        for _ in range(inputs["parts"]):
            yield {"x": made}

    return handle
"""


async def streams(folder: Path, parts: int, rounds: int, place: tuple[int, int], arrays: str, size: int) -> list[float]:
    """Parts a second of each round."""
    host = LocalHost(scratch_folder=folder / "scratch", cache_folder=folder / "cache")
    before = os.sched_getaffinity(0)
    options: dict[str, Any] = {"arrays": arrays, "size": size}
    rates = []
    async with await load_unpacked(
        folder / "stream", entry="stream:load", options=options, arrays=arrays, host=host
    ) as model:
        assert isinstance(model, WorkerModel)
        for task in os.listdir(f"/proc/{model.session.hello['pid']}/task"):
            os.sched_setaffinity(int(task), {place[1]})
        os.sched_setaffinity(0, {place[0]})
        for _ in range(rounds):
            count = 0
            start = time.perf_counter()
            async for _ in model.stream({"parts": parts}):
                count += 1
            rates.append(parts / (time.perf_counter() - start))
            assert count == parts
        os.sched_setaffinity(0, before)
    return rates


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=64, help="bytes of a part")
    parser.add_argument("--arrays", choices=("buffer", "numpy"), default="buffer")
    parser.add_argument("--quick", action="store_true", help="one round of 1000 parts: to see that it runs")
    given = parser.parse_args()
    if given.quick:
        given.parts, given.rounds = 1000, 1
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "stream").mkdir()
        (folder / "stream" / "stream.py").write_text(HANDLER)
        for cpus, place in pipe.places().items():
            bare, ours = [], []
            for _ in range(given.rounds):
                times = asyncio.run(pipe.exchanges(given.size, given.parts // 5, place))
                bare.append(1e6 / pipe.summary(times)["p50"])
                # the first stream of a worker warms it up
                ours.append(asyncio.run(streams(folder, given.parts, 2, place, given.arrays, given.size))[-1])
            exchanges, parts = statistics.median(bare), statistics.median(ours)
            result = {
                "cpus": cpus,
                "arrays": given.arrays,
                "bytes": given.size,
                "bare_exchanges_a_second": round(exchanges),
                "parts_a_second": round(parts),
                "ratio": round(parts / exchanges, 2),
            }
            failed |= cpus == "one" and not given.quick and result["ratio"] < BAR
            print(json.dumps(result))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
