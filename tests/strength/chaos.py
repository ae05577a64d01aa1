"""Everything goes wrong at once, and every call still ends, is on record as it ended, and leaves nothing behind.

    python tests/strength/chaos.py --minutes 20 [--seed N]

Eight callers run models that answer, sleep, print, raise, end their process or leave children. Meanwhile workers are killed,
calls cancelled, deadlines pass; the workers of one model are spoken to through a pipe that delays bytes and loses some.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "driver"), str(ROOT / "migrations")]

import msgspec  # noqa: E402 - as a script it first says where everything is
import numpy as np  # noqa: E402

from mer.api import Mer  # noqa: E402
from mer.audit.log import AuditLog  # noqa: E402
from mer.core.errors import (  # noqa: E402
    Busy,
    DeadlineExceeded,
    Interrupted,
    MerError,
    ModelFailed,
    WorkerLost,
)
from mer.dal.memory import MemoryStore  # noqa: E402
from mer.meal import local  # noqa: E402
from mer.meal.host import Launch  # noqa: E402
from mer.meal.stream import Stream  # noqa: E402
from tests.support.running import register, running  # noqa: E402

CALLERS = 8
PATIENCE = 60.0
"""Seconds within which every call ends: its own deadline is 5, and a worker may have to be started three times."""

HANDLER = """
    import os, subprocess, sys, time

    def load():
        def handle(inputs):
            do = inputs.get("do", "echo")
            if do == "sleep":
                time.sleep(inputs["seconds"])
            elif do == "print":
                print("x" * 20000)
                os.write(2, b"y" * 5000)
            elif do == "raise":
                raise ValueError("as asked")
            elif do == "die":
                os._exit(3)
            elif do == "leave":
                subprocess.Popen(["sleep", "1000"], start_new_session=True)
            elif do == "deaf":
                end = time.monotonic() + inputs["seconds"]
                while time.monotonic() < end:
                    try:
                        time.sleep(0.05)
                    except BaseException:
                        pass
            return {"x": inputs.get("x"), "worker": os.environ["MER_WORKER"]}
        return handle
"""

MODELS = ("one", "two", "three")


class ChaosHost(local.LocalHost):
    """This machine; a quarter of the workers are reached by a pipe that is no good."""

    chance = random.Random()
    steady: set[str] = set()  # noqa: RUF012 - of all hosts: markers of the workers that are spoken to as they should be
    lossy: set[str] = set()  # noqa: RUF012 - and of the others

    async def open(self, launch: Launch) -> Stream:
        if self.chance.random() < 0.25:
            pipe = (sys.executable, "-I", str(Path(__file__).with_name("unreliable.py")))
            seed = str(self.chance.randrange(1 << 30))
            launch = replace(launch, argv=(*pipe, seed, "1000000", *launch.argv), control=False, descriptors=())
            if hasattr(launch, "memory"):
                launch = replace(launch, memory=None)
            self.lossy.add(launch.marker)
        else:
            self.steady.add(launch.marker)
        return await super().open(launch)


@dataclass
class Tally:
    """How calls ended, by what their callers saw."""

    ends: dict[str, str] = field(default_factory=dict)
    """By the name under which each was called."""
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def outcomes(self) -> Counter[str]:
        """How many ended so."""
        return Counter(self.ends.values())


def outcome(error: BaseException) -> str:
    match error:
        case Busy():
            return "refused"
        case DeadlineExceeded():
            return "timed_out"
        case WorkerLost():
            return "lost"
        case asyncio.CancelledError() | Interrupted():
            return "cancelled"
        case ModelFailed() | MerError():
            return "failed"
    raise error


async def call(m: Mer, chance: random.Random, tally: Tally) -> None:
    """Make one call of some kind, and hold its answer to what was asked."""
    do = chance.choices(
        ["echo", "sleep", "print", "raise", "die", "leave", "deaf"], weights=[100, 10, 10, 10, 2, 2, 0.5]
    )[0]
    size = chance.choice((1, 100, 10_000, 300_000))
    inputs: dict[str, Any] = {"do": do, "x": np.frombuffer(chance.randbytes(size), np.uint8)}
    if do in ("sleep", "deaf"):
        inputs["seconds"] = chance.uniform(0, 0.5) if do == "sleep" else 2.5
    who = f"caller-{chance.randrange(1 << 60)}"
    actor = msgspec.structs.replace(m.actor, user=who)
    task = asyncio.ensure_future(m.run(chance.choice(MODELS), inputs, timeout=5.0, actor=actor))
    if chance.random() < 0.1:
        asyncio.get_running_loop().call_later(chance.uniform(0, 0.1), task.cancel)
    began = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE):
            result = await asyncio.shield(task)
    except TimeoutError:
        tally.wrong.append(f"a call of {do} has not ended after {PATIENCE:.0f} s")
        task.cancel()
        return
    except (MerError, asyncio.CancelledError) as error:
        tally.ends[who] = outcome(error)
    else:
        tally.ends[who] = "succeeded"
        # a stream that loses bytes may give the next frame's in their place: pipes and SSH do not, and the wire relies on it
        if result.outputs["worker"] in ChaosHost.steady and not np.array_equal(result.outputs["x"], inputs["x"]):
            tally.wrong.append("an answer was not the one to the question")
    tally.slowest = max(tally.slowest, time.monotonic() - began)


def children() -> list[int]:
    """Return the processes that this one has started, and that are no zombies."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return [pid for pid in found if _state(pid) not in "ZX"]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def marked(markers: set[str]) -> list[int]:
    """Return the processes that a worker has left."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                entries = (folder / "environ").read_bytes().split(b"\0")
                if any(entry.startswith(b"MER_WORKER=") and entry[11:].decode() in markers for entry in entries):
                    found.append(int(folder.name))
    return [pid for pid in found if _state(pid) not in "ZX"]


async def killing(chance: random.Random, mine: frozenset[int]) -> None:
    """Kill a worker now and then."""
    while True:
        await asyncio.sleep(chance.uniform(0.5, 3))
        if workers := [pid for pid in children() if pid not in mine]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(workers), signal.SIGKILL)


async def recorded(log: AuditLog) -> dict[str, str]:
    """Return how calls ended by the log, by the name under which each was called; `open` is no end."""
    callers: dict[str, str] = {}
    ends: dict[str, str] = {}
    after = None
    while True:
        page = await log.list(limit=1000, after=after)
        for record in page.items:
            body = json.loads(record.body)
            if "invocation" in body:
                if body["kind"] in ("started", "refused"):
                    callers[body["invocation"]] = body["actor"]["user"]
                if "outcome" in body:  # of one whose start was given up the driver itself tells the end
                    ends[body["invocation"]] = body["outcome"]
        after = page.next
        if after is None:
            return {who: ends.get(invocation, "open") for invocation, who in callers.items()}


def differences(seen: dict[str, str], told: dict[str, str]) -> list[str]:
    """Return where callers and log disagree.

    Who cancels may do so before anything was started, which leaves no record, or when the model's answer is being recorded.
    """
    wrong = [f"{who} has no end in the log" for who, end in told.items() if end == "open"]
    for who, end in seen.items():
        if end != "cancelled" and told.get(who) != end:
            wrong.append(f"{who} saw {end}, the log says {told.get(who)}")
    return wrong + [f"{who} is nobody" for who in told.keys() - seen.keys()]


async def chaos(folder: Path, *, seconds: float, seed: int) -> Tally:
    """Let it all happen for a while, and return what is to be said of it; `wrong` is empty if all is well."""
    chance = random.Random(seed)
    tally, store = Tally(), MemoryStore()
    ChaosHost.chance, ChaosHost.steady, ChaosHost.lossy = random.Random(seed + 1), set(), set()
    mine = frozenset(children())
    before = len(os.listdir("/proc/self/fd"))
    plain, local.LocalHost = local.LocalHost, ChaosHost  # type: ignore[misc] # where the parts are put together
    try:
        async with running(folder, store, max_workers=4) as m:
            for name in MODELS:
                await register(m, folder, HANDLER, name=name)
            end = time.monotonic() + seconds
            killer = asyncio.create_task(killing(chance, mine))

            async def caller(seed: int) -> None:
                own = random.Random(seed)
                while time.monotonic() < end and not tally.wrong:
                    await call(m, own, tally)
                    await asyncio.sleep(own.choice((0, 0, 0.01, 0.1)))

            await asyncio.gather(*(caller(seed + 10 + number) for number in range(CALLERS)))
            killer.cancel()
        tally.wrong += differences(tally.ends, await recorded(AuditLog(store)))  # what was given up is told by now
    finally:
        local.LocalHost = plain  # type: ignore[misc]
    await asyncio.sleep(0.2)
    if left := [pid for pid in children() if pid not in mine] + marked(ChaosHost.steady | ChaosHost.lossy):
        tally.wrong.append(f"the processes {left} are left")
    if (after := len(os.listdir("/proc/self/fd"))) > before + 1:  # the thread pool's and the loop's own come and go
        tally.wrong.append(f"{after - before} descriptors are left: {_descriptors()}")
    if left_over := list((folder / "state" / "scratch").iterdir()):
        tally.wrong.append(f"{left_over} are left")
    return tally


def _descriptors() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = asyncio.run(chaos(Path(folder), seconds=60 * given.minutes, seed=given.seed))
    print(
        f"seed {given.seed}: {sum(tally.outcomes.values())} calls, {dict(tally.outcomes)}, slowest {tally.slowest:.1f} s"
    )
    for line in tally.wrong:
        print("WRONG:", line)
    return bool(tally.wrong)


if __name__ == "__main__":
    sys.exit(main())
