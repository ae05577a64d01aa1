"""Large tensors: an echo of 588 KiB, 16 and 64 MiB against two memcpys of the same run, and what it leaves in memory.

    python benchmarks/large.py [--repeats 15] [--rounds 5] [--ray PYTHON] [--growth] [--quick]

Both are pinned alike, on one CPU and on two, and measured in turns. Beside the echo: a handler that answers `x.copy()`, one
that writes to `context.empty`, and the echo without shared memory. `--ray` names an interpreter that has Ray. `--growth`
makes 200 calls of 64 MiB instead, and says how much more memory they left than the first ones.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from yardsticks import memcpy, pipe

from mer.meal.library import load_unpacked
from mer.meal.loaded import LoadedModel, WorkerModel
from mer.meal.local import LocalHost

SMALL = 588 << 10
MOST = 64 << 20
GROWTH = 1.02
"""Times the memory after the first calls."""

HANDLERS = {
    "echo": "def load():\n    return lambda inputs: inputs\n",
    "copy": "def load():\n    return lambda inputs: {'x': inputs['x'].copy()}\n",
    "empty": (
        "def load():\n"
        "    def handler(inputs, context):\n"
        "        y = context.empty(inputs['x'].shape, 'float32')\n"
        "        y[:] = inputs['x']\n"
        "        return {'x': y}\n"
        "    return handler\n"
    ),
}


def bar(size: int, cpus: str, yardstick: float, bare: float, handler: str) -> float | None:
    """Seconds that a call may take, where there is a bar."""
    if handler == "copy":
        return 2.3 * yardstick if size > SMALL else None
    if handler != "echo":
        return None
    if size == SMALL:
        return 1.7 * yardstick + 0.10e-3 + (2 * bare if cpus == "two" else 0)
    return (1.3 if cpus == "one" else 1.7) * yardstick + 0.15e-3


@asynccontextmanager
async def loaded(folder: Path, handler: str, place: tuple[int, int], *, shared: bool) -> AsyncIterator[LoadedModel]:
    """Give a model with this handler, driver and worker pinned."""
    given: dict[str, Any] = {} if shared else {"memory_bytes": 0}
    host = LocalHost(scratch_folder=folder / "scratch", cache_folder=folder / "cache", **given)
    before = os.sched_getaffinity(0)
    async with await load_unpacked(folder / handler, entry="handler:load", host=host) as model:
        assert isinstance(model, WorkerModel)
        for task in os.listdir(f"/proc/{model.session.hello['pid']}/task"):
            os.sched_setaffinity(int(task), {place[1]})
        os.sched_setaffinity(0, {place[0]})
        try:
            yield model
        finally:
            os.sched_setaffinity(0, before)


async def calls(model: LoadedModel, size: int, count: int) -> list[float]:
    """Seconds of each call, the first ones left out: they fill the memory, and find the shortest way."""
    x = np.random.default_rng(0).random(size // 4, dtype=np.float32)
    times = []
    many = 20 if size <= SMALL else 1
    for _ in range((count + 5) * many):
        start = time.perf_counter()
        outputs = await model.infer({"x": x})
        times.append(time.perf_counter() - start)
    assert outputs["x"].shape == x.shape
    return times[5 * many :]


def pinned_memcpy(size: int, repeats: int, cpu: int) -> float:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        return memcpy.two_memcpys(size, repeats)
    finally:
        os.sched_setaffinity(0, before)


async def measure(folder: Path, given: argparse.Namespace, cpus: str, place: tuple[int, int]) -> bool:
    """Measure all in turns; return whether a bar was missed."""
    failed = False
    kinds = [(handler, True) for handler in HANDLERS] + [("echo", False)]
    for size in given.sizes:
        found: dict[Any, list[float]] = {}
        for _ in range(given.rounds):
            found.setdefault("memcpy", []).append(pinned_memcpy(size, given.repeats, place[0]))
            bare = pipe.summary(await pipe.exchanges(1024, 400, place))
            found.setdefault("bare", []).append(bare["p50"] / 1e6)
            for handler, shared in kinds:
                async with loaded(folder, handler, place, shared=shared) as model:
                    times = await calls(model, size, given.repeats)
                found.setdefault((handler, shared), []).append(statistics.median(times))
        yardstick, exchange = statistics.median(found["memcpy"]), statistics.median(found["bare"])
        for handler, shared in kinds:
            took = statistics.median(found[handler, shared])
            most = bar(size, cpus, yardstick, exchange, handler) if shared else None
            failed |= most is not None and took > most
            print(
                json.dumps(
                    {
                        "cpus": cpus,
                        "KiB": size >> 10,
                        "handler": handler if shared else f"{handler}, by the pipe",
                        "two_memcpys_ms": round(yardstick * 1e3, 3),
                        "call_ms": round(took * 1e3, 3),
                        "ratio": round(took / yardstick, 2),
                        "bar_ms": None if most is None else round(most * 1e3, 3),
                    }
                ),
                flush=True,
            )
    return failed


def of_ray(python: str, place: tuple[int, int], sizes: list[int]) -> dict[str, float]:
    """Milliseconds of Ray's echo of each size."""
    script = Path(__file__).parent / "yardsticks" / "ray_echo.py"
    argv = [python, str(script), ",".join(map(str, sorted(set(place)))), *map(str, sizes)]
    medians: dict[str, float] = json.loads(
        subprocess.run(argv, capture_output=True, check=True).stdout.splitlines()[-1]
    )
    return medians


def memory_of(pid: int) -> dict[str, int]:
    """Resident kB of both processes, and kB of the files that they share."""

    def resident(number: int | str) -> int:
        return int(Path(f"/proc/{number}/status").read_text().split("VmRSS:")[1].split()[0])

    seen = {}
    for name in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{name}"
        try:
            if os.readlink(path).startswith("/memfd:mer"):
                status = os.stat(path)
                seen[status.st_ino] = status.st_blocks // 2
        except OSError:  # the folder's own
            continue
    return {"driver": resident("self"), "worker": resident(pid), "shared": sum(seen.values())}


async def growth(folder: Path, given: argparse.Namespace) -> bool:
    """Say what many calls leave; return whether it is too much."""
    place = next(iter(pipe.places().values()))
    async with loaded(folder, "echo", place, shared=True) as model:
        assert isinstance(model, WorkerModel)
        pid = model.session.hello["pid"]
        await calls(model, given.growth_bytes, 20)
        before = memory_of(pid)
        await calls(model, given.growth_bytes, given.growth_calls)
        after = memory_of(pid)
    ratios = {name: round(after[name] / before[name], 4) for name in before}
    print(json.dumps({"calls": given.growth_calls, "before_kb": before, "after_kb": after, "ratios": ratios}))
    return any(ratio > GROWTH for ratio in ratios.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(memcpy.SIZES), help="bytes")
    parser.add_argument("--ray", metavar="PYTHON", help="an interpreter that has Ray: measure its object store too")
    parser.add_argument("--growth", action="store_true", help="200 calls of 64 MiB, and the memory that they leave")
    parser.add_argument("--quick", action="store_true", help="one round of small sizes: to see that it runs")
    given = parser.parse_args()
    given.growth_bytes, given.growth_calls = MOST, 200
    if given.quick:
        given.repeats, given.rounds, given.sizes = 3, 1, [SMALL, 1 << 20]
        given.growth_bytes, given.growth_calls = 1 << 20, 20
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for handler, source in HANDLERS.items():
            (folder / handler).mkdir()
            (folder / handler / "handler.py").write_text(source)
        if given.growth or given.quick:
            failed |= asyncio.run(growth(folder, given))
        if not given.growth:
            for cpus, place in pipe.places().items():
                failed |= asyncio.run(measure(folder, given, cpus, place))
                if given.ray:
                    print(
                        json.dumps(
                            {"cpus": cpus, "handler": "echo of Ray", "ms": of_ray(given.ray, place, given.sizes)}
                        )
                    )
    return 1 if failed and not given.quick else 0


if __name__ == "__main__":
    sys.exit(main())
