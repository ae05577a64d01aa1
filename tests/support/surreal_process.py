"""A process of its own that works on an embedded SurrealDB, for tests of what several do to one another.

    python -m tests.support.surreal_process WHAT URL [COUNT]

It prints one line for each record that the store has acknowledged, so that a test knows what may not be lost.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from mer.dal.surreal import SurrealStore
from tests.support import records

ROOT = Path(__file__).parents[2]
HOLD_SECONDS = 60.0


async def write(url: str, count: int) -> None:
    """Append records one by one, with a pause longer than the idle time after each, as a second console would."""
    store = SurrealStore(url, idle_seconds=0.01, lock_seconds=30)
    await store.open()
    chain = await store.access_log.chain()
    for number in range(count):
        (place,) = await store.access_log.append([records.change(chain, number=number)])
        print(place.seq, place.digest, flush=True)
        await asyncio.sleep(0.03)
    await store.close()


async def pour(url: str, count: int) -> None:
    """Append records as fast as it goes, eight callers at once, until it is killed."""
    store = SurrealStore(url)
    await store.open()
    chain = await store.access_log.chain()

    async def caller() -> None:
        for number in range(count):
            (place,) = await store.access_log.append([records.change(chain, number=number)])
            print(place.seq, place.digest, flush=True)

    await asyncio.gather(*(caller() for _ in range(8)))
    await store.close()


async def hold(url: str, count: int) -> None:
    """Keep the database open until it is killed."""
    store = SurrealStore(url, idle_seconds=HOLD_SECONDS)
    await store.open()
    print("held", flush=True)
    await asyncio.sleep(HOLD_SECONDS)


if __name__ == "__main__":
    what, url, *rest = sys.argv[1:]
    asyncio.run({"write": write, "pour": pour, "hold": hold}[what](url, int(rest[0]) if rest else 0))
