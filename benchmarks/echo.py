"""A warm call: `LoadedModel.infer` of a small echo, against the bare exchange of yardsticks/pipe.py in the same run.

    python benchmarks/echo.py [--what buffer|numpy|texts] [--peers] [--calls 4000] [--rounds 5] [--quick]
    python benchmarks/echo.py --growth 100000

`buffer` and `numpy` are 1 KiB of float32, without numpy and with it; `texts` are 10 short strings, beside 1 KiB of float32
as buffers. All are pinned alike, on one CPU and on two, and measured in turns, so that what else the machine does meets
each. `--peers` measures a 1 KiB array through execnet (if it is installed) and through multiprocessing.Pipe as well, which
pickle it. `--growth` makes so many calls and compares the memory of both processes with that after a tenth of them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import multiprocessing
import multiprocessing.connection
import os
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from yardsticks import pipe

from mer.meal.library import load_unpacked
from mer.meal.loaded import WorkerModel
from mer.meal.local import LocalHost
from mer_worker.tensors import Buffer

SIZE = 1024
BARS = {"buffer": 2.0, "numpy": 2.3}
"""Times the bare exchange's p50."""
BAR_P99 = 3.0
"""Times its p99, with buffers on one CPU."""
BAR_TEXTS = 1.3
"""Times 1 KiB of float32, for 10 strings."""
BAR_GROWTH = 1.02
"""Times the memory after warm-up."""
MOST_RESIDENT = 20 * 1024
"""kB of a worker with the echo loaded."""

HANDLER = "def load():\n    return lambda inputs: inputs\n"


def given(what: str) -> dict[str, Any]:
    if what == "texts":
        return {"t": [f"string number {i}" for i in range(10)]}
    if what == "numpy":
        import numpy

        return {"x": numpy.zeros(SIZE // 4, dtype="float32")}
    return {"x": Buffer(os.urandom(SIZE), "float32", (SIZE // 4,))}


def resident(pid: int) -> int:
    """kB in memory."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])


@asynccontextmanager
async def echo(folder: Path, what: str, place: tuple[int, int]) -> AsyncIterator[WorkerModel]:
    """Give a loaded echo, both ends pinned."""
    host = LocalHost(scratch_folder=folder / "scratch", cache_folder=folder / "cache")
    before = os.sched_getaffinity(0)
    arrays = "numpy" if what == "numpy" else "buffer"
    async with await load_unpacked(folder / "echo", entry="echo:load", arrays=arrays, host=host) as model:
        assert isinstance(model, WorkerModel)
        for task in os.listdir(f"/proc/{model.session.hello['pid']}/task"):
            os.sched_setaffinity(int(task), {place[1]})
        os.sched_setaffinity(0, {place[0]})
        try:
            yield model
        finally:
            os.sched_setaffinity(0, before)


async def calls(folder: Path, count: int, place: tuple[int, int], what: str) -> tuple[list[float], int]:
    """Seconds of each warm call, and the worker's resident kB at the end."""
    inputs, times = given(what), []
    async with echo(folder, what, place) as model:
        for _ in range(count):
            start = time.perf_counter()
            await model.infer(inputs)
            times.append(time.perf_counter() - start)
        return times, resident(model.session.hello["pid"])


async def growth(folder: Path, count: int) -> dict[str, float]:
    """Times the memory after a tenth of the calls, at their end."""
    kinds = [given(what) for what in ("buffer", "texts")]
    async with echo(folder, "buffer", pipe.places()["one"]) as model:
        pids = {"driver": os.getpid(), "worker": model.session.hello["pid"]}
        warm: dict[str, int] = {}
        for i in range(count):
            if i == count // 10:
                warm = {name: resident(pid) for name, pid in pids.items()}
            await model.infer(kinds[i % 2], timeout=60 if i % 3 else None)
        return {name: round(resident(pid) / warm[name], 4) for name, pid in pids.items()}


def piped(count: int, place: tuple[int, int]) -> list[float]:
    """Seconds of each echo of an array through multiprocessing.Pipe."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=answer, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    assert process.pid is not None
    try:
        return exchanged(lambda array: (ours.send(array), ours.recv()), process.pid, count, place)
    finally:
        ours.close()
        process.join()


def answer(connection: multiprocessing.connection.Connection) -> None:
    with contextlib.suppress(EOFError):
        while True:
            connection.send(connection.recv())


REMOTE = """
import os, pickle
channel.send(os.getpid())
for item in channel:
    channel.send(pickle.dumps(pickle.loads(item), 5))
"""


def execnet_calls(count: int, place: tuple[int, int]) -> list[float] | None:
    """The same through an execnet gateway; None where it is not installed."""
    try:
        import execnet  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return None
    gateway = execnet.makegateway(f"popen//python={sys.executable}")
    try:
        channel = gateway.remote_exec(REMOTE)
        pid = channel.receive()

        def exchange(array: Any) -> object:
            channel.send(pickle.dumps(array, 5))
            return pickle.loads(channel.receive())

        return exchanged(exchange, pid, count, place)
    finally:
        gateway.exit()


def exchanged(exchange: Callable[[Any], object], pid: int, count: int, place: tuple[int, int]) -> list[float]:
    array, times, before = given("numpy")["x"], [], os.sched_getaffinity(0)
    exchange(array)
    for task in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(task), {place[1]})
    os.sched_setaffinity(0, {place[0]})
    for _ in range(count):
        start = time.perf_counter()
        exchange(array)
        times.append(time.perf_counter() - start)
    os.sched_setaffinity(0, before)
    return times


def compared(folder: Path, args: argparse.Namespace, cpus: str, place: tuple[int, int]) -> tuple[dict[str, Any], bool]:
    """Return the medians of the rounds, and whether a bar was missed."""
    found: dict[str, list[dict[str, float]]] = {"bare": [], "call": []}
    worker = 0
    for _ in range(args.rounds):
        found["bare"].append(pipe.summary(asyncio.run(pipe.exchanges(SIZE, args.calls, place))))
        if args.what == "texts":
            found.setdefault("floats", []).append(
                pipe.summary(asyncio.run(calls(folder, args.calls, place, "buffer"))[0])
            )
        times, worker = asyncio.run(calls(folder, args.calls, place, args.what))
        found["call"].append(pipe.summary(times))
        if args.peers:
            found.setdefault("pipe", []).append(pipe.summary(piped(args.calls, place)))
            peer = execnet_calls(args.calls, place)
            if peer is not None:
                found.setdefault("execnet", []).append(pipe.summary(peer))
    median = {
        key: {name: statistics.median(one[key] for one in rounds) for name, rounds in found.items()}
        for key in ("p50", "p99")
    }
    result: dict[str, Any] = {"cpus": cpus, "what": args.what}
    for key, medians in median.items():
        result |= {f"{name}_{key}_us": round(value, 1) for name, value in medians.items()}
        result[f"ratio_{key}"] = round(medians["call"] / medians["bare"], 2)
    result["worker_resident_kb"] = worker
    p50 = median["p50"]
    missed = args.what in BARS and p50["call"] > BARS[args.what] * p50["bare"]
    if args.what == "buffer":
        missed |= worker > MOST_RESIDENT or (cpus == "one" and result["ratio_p99"] > BAR_P99)
    if args.what == "texts":
        result["ratio_floats"] = round(p50["call"] / p50["floats"], 2)
        missed |= p50["call"] > BAR_TEXTS * p50["floats"]
    missed |= any(p50["call"] > p50[peer] for peer in ("pipe", "execnet") if peer in p50)
    return result, missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--what", choices=("buffer", "numpy", "texts"), default="buffer")
    parser.add_argument("--peers", action="store_true", help="with numpy: beside execnet and multiprocessing.Pipe")
    parser.add_argument("--growth", type=int, metavar="CALLS", help="only see whether memory grows")
    parser.add_argument("--quick", action="store_true", help="one round of 300 calls: to see that it runs")
    args = parser.parse_args()
    if args.quick:
        args.calls, args.rounds = 300, 1
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "echo").mkdir()
        (folder / "echo" / "echo.py").write_text(HANDLER)
        if args.growth:
            grown = asyncio.run(growth(folder, args.growth))
            print(json.dumps({"calls": args.growth, "memory": grown}))
            return 1 if max(grown.values()) > BAR_GROWTH else 0
        if args.peers:
            args.what = "numpy"
            if importlib.util.find_spec("execnet") is None:
                print("execnet is not installed: left out", file=sys.stderr)
        for cpus, place in pipe.places().items():
            result, missed = compared(folder, args, cpus, place)
            failed |= missed
            print(json.dumps(result))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
