"""Yardstick: the least that an asyncio driver and a Python worker can take for one exchange over pipes.

Each exchange the driver writes `size` bytes and awaits a future that its reader callback sets; the worker writes back what
it read. No frames, no checks. `python benchmarks/yardsticks/pipe.py` prints medians in microseconds, one CPU and two.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time

ECHO = (
    "import os,sys\nn=int(sys.argv[1])\n"
    "while True:\n b=os.read(0,n)\n if not b: break\n"
    " while len(b)<n: b+=os.read(0,n-len(b))\n os.write(1,b)\n"
)


def places() -> dict[str, tuple[int, int]]:
    """Where driver and worker run: on one CPU, and on two where there are two."""
    cpus = sorted(os.sched_getaffinity(0))
    return {"one": (cpus[0], cpus[0])} | ({"two": (cpus[0], cpus[1])} if len(cpus) > 1 else {})


def summary(seconds: list[float]) -> dict[str, float]:
    """p50 and p99 in microseconds, without the first tenth (warm-up)."""
    kept = sorted(seconds[len(seconds) // 10 :])
    return {"p50": kept[len(kept) // 2] * 1e6, "p99": kept[len(kept) * 99 // 100] * 1e6}


async def exchanges(size: int, calls: int, place: tuple[int, int]) -> list[float]:
    """Seconds of each exchange, with driver and worker pinned to these CPUs."""
    loop = asyncio.get_running_loop()
    worker = subprocess.Popen([sys.executable, "-c", ECHO, str(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert worker.stdin is not None
    assert worker.stdout is not None
    read, write = worker.stdout.fileno(), worker.stdin.fileno()
    os.set_blocking(read, False)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {place[0]})
    os.sched_setaffinity(worker.pid, {place[1]})
    waiting: asyncio.Future[None] = loop.create_future()
    got = 0

    def readable() -> None:
        nonlocal got
        part = os.read(read, size)
        if not part:
            loop.remove_reader(read)
            waiting.set_exception(EOFError("the worker is gone"))
            return
        got += len(part)
        if got == size:
            got = 0
            waiting.set_result(None)

    loop.add_reader(read, readable)
    payload, times = os.urandom(size), []
    for _ in range(calls):
        start = time.perf_counter()
        waiting = loop.create_future()
        os.write(write, payload)
        await waiting
        times.append(time.perf_counter() - start)
    loop.remove_reader(read)
    worker.stdin.close()
    worker.wait()
    worker.stdout.close()
    os.sched_setaffinity(0, before)
    return times


def main() -> None:
    for name, place in places().items():
        rounds = [summary(asyncio.run(exchanges(1024, 4000, place))) for _ in range(5)]
        print(json.dumps({name: {key: round(statistics.median(r[key] for r in rounds), 1) for key in rounds[0]}}))


if __name__ == "__main__":
    main()
