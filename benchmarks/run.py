"""`Mer.run` of a 1 KiB echo: what the pool and all that surrounds a call add to it, and what its two durable records do.

    python benchmarks/run.py [--calls 1000] [--rounds 5] [--quick]

`call` is the bare `LoadedModel.infer`; `unrecorded` is `Mer.run` with an audit that puts nothing on record and computes no
digests; `audited` is `Mer.run` as everybody gets it, on an embedded Postgres; `commits` are two bare commits there
(yardsticks/commits.py). The four take turns in one process; driver and worker share one CPU, and the database may have the
other one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from database import embedded, state_folder
from yardsticks import commits, pipe

import mer
from mer.audit.bodies import Subject, Timings
from mer.core.actor import Actor
from mer.core.errors import MerError
from mer.core.records import InvocationId, Outcome
from mer.core.specs import VersionSpec
from mer.dal.postgres.conninfo import conninfo
from mer.execution.audit import Audit, Started, Streamed
from mer.execution.prepared import Prepared
from mer.execution.printed import Printed
from mer.library import load_unpacked
from mer.meal.answers import Reply
from mer.meal.calls import LogCallback
from mer_worker.tensors import Buffer

BAR_ADDED = 10.0
"""Microseconds that the way through the pool may add, on one CPU."""
BAR_COMMITS, BAR_CALLS = 1.7, 1.5
"""What an audited run may take: so many times the two commits, and so many times the unrecorded run. `ratio_audited` is
what it takes to that."""

SIZE = 1024
HANDLER = "def load():\n    return lambda inputs: inputs\n"


class Unrecorded:
    """No log and no digests (mer.execution.audit.Audit): for this benchmark only."""

    def __init__(self) -> None:
        self._unheard = Printed(None, kept=False)

    async def refused(self, invocation: InvocationId, subject: Subject, actor: Actor, error: MerError) -> None:
        """There is no record."""

    async def start(self, prepared: Prepared, actor: Actor, on_log: LogCallback | None) -> Started:  # noqa: ARG002 - as above
        printed = self._unheard if on_log is None else Printed(on_log, kept=False)
        return Started(prepared=prepared, timings=Timings(), printed=printed)

    async def end(
        self,
        started: Started,  # noqa: ARG002 - there is no record
        *,
        outcome: Outcome,  # noqa: ARG002
        error: MerError | None = None,  # noqa: ARG002
        reply: Reply | None = None,  # noqa: ARG002
        streamed: Streamed | None = None,  # noqa: ARG002
    ) -> bool:
        return True

    async def close(self) -> None:
        """Nothing is on its way."""


def workers() -> list[int]:
    """Return the processes of all workers of this one."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(child) for child in children if b"mer_worker" in Path(f"/proc/{child}/cmdline").read_bytes()]


async def timed(call: Callable[[], Awaitable[object]], count: int) -> float:
    """Return the median of microseconds, without the first tenth."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        await call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[count // 10 :]) * 1e6


async def measure(folder: Path, dsn: str, count: int, rounds: int, cpus: tuple[int, int]) -> dict[str, float]:
    """Return medians of the rounds."""
    package = folder / "echo"
    package.mkdir(exist_ok=True)
    (package / "echo.py").write_text(HANDLER)
    options = {"entrypoint_package": "echo", "entrypoint_fn": "load"}
    value = {"x": Buffer(os.urandom(SIZE), "float32", (SIZE // 4,))}
    found: dict[str, list[float]] = {"call": [], "unrecorded": [], "audited": [], "commits": []}
    before = os.sched_getaffinity(0)
    async with (
        mer.open(state_folder=folder / "state", allow_changes=True, settings={"run_seconds": 60.0}) as m,
        await load_unpacked(package, entry="echo:load", arrays="buffer") as model,
    ):
        try:
            await m.register_model("echo", package, spec=VersionSpec(runner="python", options=options, arrays="buffer"))
        except MerError:
            pass  # it was, for the placement before
        recorded, bare = m._executor.audit, Unrecorded()

        async def run(audit: Audit) -> None:
            m._executor.audit = audit
            await m.run("echo", value)

        await run(recorded)
        for pid in workers():
            for task in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(task), {cpus[1]})
        os.sched_setaffinity(0, {cpus[0]})
        with commits.table(dsn) as table:
            for _ in range(rounds):
                found["call"].append(await timed(lambda: model.infer(value), count))
                found["unrecorded"].append(await timed(lambda: run(bare), count))
                found["audited"].append(await timed(lambda: run(recorded), count // 4))
                found["commits"].append(commits.alone(dsn, table, count // 4) * 1e6)
        os.sched_setaffinity(0, before)
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of 100 calls: to see that it runs")
    given = parser.parse_args()
    if given.quick:
        given.calls, given.rounds = 100, 1
    failed = False
    with state_folder() as folder, embedded(folder / "state") as server:
        dsn = conninfo(server.superuser())
        for name, place in pipe.places().items():
            found = asyncio.run(measure(folder, dsn, given.calls, given.rounds, place))
            added = found["unrecorded"] - found["call"]
            bar = BAR_COMMITS * found["commits"] + BAR_CALLS * found["unrecorded"]
            result = {"cpus": name} | {f"{key}_us": round(value, 1) for key, value in found.items()}
            result |= {"added_us": round(added, 1), "ratio_audited": round(found["audited"] / bar, 2)}
            print(json.dumps(result))
            failed |= (added > BAR_ADDED and name == "one") or found["audited"] > bar
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
