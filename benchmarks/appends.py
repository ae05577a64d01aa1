"""Appending to the access log, against bare commits on an embedded Postgres (yardsticks/commits.py).

    python benchmarks/appends.py [--database surrealkv|URL] [--rounds 5] [--seconds 2] [--quick]

The log is the one of that same server, or another database's: a SurrealDB in a folder of its own, or whatever a URL names,
migrated already, which keeps what is appended (its login: DRIVER_DB_USERNAME, DRIVER_DB_PASSWORD).

A call is two durable records, one after the other, as a run has them: through the group writer and the store. Their bodies
are made beforehand, as the yardstick's rows are; what making them costs is told apart. Ours and the bare ones take turns;
medians of rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import multiprocessing.synchronize
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from database import chosen, embedded, opened, run, shared, state_folder
from yardsticks import commits

from mer.audit.bodies import Bodies
from mer.audit.writer import GroupWriter
from mer.core.chain import Verifier
from mer.dal.base import Store
from mer.dal.postgres.conninfo import conninfo
from mer.settings import Settings

PROCESSES = 4
CALLERS = 8


class Appending:
    """Callers that share one process's writer, each waiting for two records in turn."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writer = GroupWriter(store.access_log)
        self.calls = 0
        self.times: list[float] = []

    async def for_seconds(self, seconds: float, callers: int) -> float:
        """Return the calls a second."""
        bodies = Bodies(chain=await self._store.access_log.chain())
        ready = [run(bodies) for _ in range(int(seconds * 8000))]
        self.calls, self.times = 0, []
        start = time.perf_counter()

        async def call() -> None:
            while ready and (begun := time.perf_counter()) < start + seconds:
                first, second = ready.pop()
                await self._writer.append(first)
                await self._writer.append(second)
                self.calls += 1
                self.times.append(time.perf_counter() - begun)

        await asyncio.gather(*(call() for _ in range(callers)))
        return self.calls / (time.perf_counter() - start)


async def appending(settings: Settings, ask: Callable[[Appending], Awaitable[float]]) -> float:
    async with opened(settings) as store:
        return await ask(Appending(store))


def process(
    settings: Settings,
    seconds: float,
    together: multiprocessing.synchronize.Barrier,
    told: multiprocessing.Queue,
) -> None:
    async def ask(calls: Appending) -> float:
        await calls.for_seconds(0.2, CALLERS)
        together.wait()
        return await calls.for_seconds(seconds, CALLERS)

    told.put(asyncio.run(appending(settings, ask)))


def processes(settings: Settings, seconds: float) -> list[float]:
    """Return the calls a second of each of several processes that append at the same time."""
    context = multiprocessing.get_context("spawn")
    together, told = context.Barrier(PROCESSES), context.Queue()
    started = [context.Process(target=process, args=(settings, seconds, together, told)) for _ in range(PROCESSES)]
    for each in started:
        each.start()
    rates = [told.get(timeout=60 + seconds) for _ in started]
    for each in started:
        each.join()
    return rates


async def verified(settings: Settings) -> int:
    async with opened(settings) as store:
        verifier = Verifier(chain=await store.access_log.chain())
        await store.access_log.feed(verifier)
    assert verifier.finish() == []
    return verifier.records


def compare(database: str, rounds: int, seconds: float) -> dict[str, float]:
    found: dict[str, list[float]] = {}

    def note(**figures: float) -> None:
        for name, figure in figures.items():
            found.setdefault(name, []).append(figure)

    with ExitStack() as until_the_end:
        folder = until_the_end.enter_context(state_folder())
        bare = conninfo(until_the_end.enter_context(embedded(folder)).superuser())
        settings = chosen(database, folder)

        def ours(callers: int, length: float) -> float:
            return asyncio.run(appending(settings, lambda calls: calls.for_seconds(length, callers)))

        async def one(calls: Appending) -> float:
            await calls.for_seconds(seconds / 2, 1)
            return statistics.median(calls.times)

        table = until_the_end.enter_context(commits.table(bare))
        ours(CALLERS, 0.5)  # the first pages of the table and its indexes
        for _ in range(rounds):
            bare_8 = asyncio.run(commits.grouped(bare, table, callers=CALLERS, seconds=seconds))
            ours_8 = ours(CALLERS, seconds)
            ours_32 = ours(4 * CALLERS, seconds)
            bare_one = commits.alone(bare, table, 300)
            ours_one = asyncio.run(appending(settings, one))
            note(bare_8=bare_8, ours_8=ours_8, ours_32=ours_32)
            note(bare_one_us=bare_one * 1e6, ours_one_us=ours_one * 1e6)
            note(ratio_8=ours_8 / bare_8, ratio_32_to_8=ours_32 / ours_8, ratio_one=ours_one / bare_one)
            if shared(settings):
                each = processes(settings, seconds)
                note(processes_4x8=sum(each), ratio_processes_to_one=sum(each) / ours_8)
                note(ratio_slowest_to_fastest=min(each) / max(each))
        records = asyncio.run(verified(settings))
    bodies, start = Bodies(chain="0" * 36), time.perf_counter()
    for _ in range(2000):
        run(bodies)
    making = (time.perf_counter() - start) / 2000
    medians = {name: statistics.median(figures) for name, figures in found.items()}
    return {**medians, "making_two_bodies_us": making * 1e6, "records_verified": records}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", default="", help="surrealkv, or a URL; without it the embedded Postgres")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--quick", action="store_true", help="one round of half a second each: to see that it runs")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.seconds = 1, 0.5
    load = os.getloadavg()[0]
    figures = compare(given.database, given.rounds, given.seconds)
    shown = json.dumps({key: round(value, 3) for key, value in figures.items()})
    print("appends", given.database.partition(":")[0] or "postgres", shown, f"load before: {load:.1f}")
