"""A process that appends runs to the log of its environment's database: `python -m tests.support.appender CALLERS RUNS`.

Each caller makes that many runs, two records each, one after the other. It waits for a line on stdin before it begins, and
prints a line for every record that was acknowledged: its place, its digest, the invocation and the kind.
"""

from __future__ import annotations

import asyncio
import os
import sys

from mer.audit.writer import GroupWriter
from mer.core.identifiers import uuid7
from mer.core.records import LeaseId
from mer.dal.open import open_store
from mer.settings import load
from tests.support import records


async def append(callers: int, runs: int) -> None:
    store = await open_store(load(environ=os.environ))
    chain, lease = await store.access_log.chain(), LeaseId(uuid7())
    tell("ready")
    await asyncio.to_thread(sys.stdin.readline)
    async with GroupWriter(store.access_log) as writer, asyncio.TaskGroup() as group:

        async def caller() -> None:
            for _ in range(runs):
                of = records.invocation()
                for make in (records.started, records.finished):
                    place = await writer.append(make(chain, of, lease=lease))
                    tell(f"{place.seq} {place.digest} {of} {make.__name__}")

        for _ in range(callers):
            group.create_task(caller())
    await store.close()


def tell(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # at once: what was told before a kill -9 was acknowledged


if __name__ == "__main__":
    asyncio.run(append(int(sys.argv[1]), int(sys.argv[2])))
