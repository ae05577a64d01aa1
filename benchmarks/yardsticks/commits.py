"""Yardstick: what a PostgreSQL gives for durable rows by psycopg alone, without a chain, a lock or a record's meaning.

`alone` is one caller that waits for two commits, one after the other. `grouped` is many callers that each wait for two rows
in turn, while one writer commits whatever waits as one group.

    python benchmarks/yardsticks/commits.py postgresql://… [--callers 8]

Uses a table of its own and drops it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

ROW = os.urandom(500).hex()
"""As long as a record's body."""


@contextmanager
def table(conninfo: str) -> Iterator[str]:
    """Give an empty table on a server that keeps what it commits."""
    name = f"yardstick_{os.getpid()}"
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for setting in ("fsync", "synchronous_commit"):
            assert connection.execute(f"SHOW {setting}").fetchone() == ("on",), f"{setting} is off: not durable"
        connection.execute(f"CREATE TABLE {name} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text)")
        try:
            yield name
        finally:
            connection.execute(f"DROP TABLE {name}")


def alone(conninfo: str, name: str, calls: int) -> float:
    """Return the median seconds of two commits."""
    insert, times = f"INSERT INTO {name} (body) VALUES (%s)", []
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for _ in range(calls):
            start = time.perf_counter()
            connection.execute(insert, (ROW,), prepare=True)
            connection.execute(insert, (ROW,), prepare=True)
            times.append(time.perf_counter() - start)
    return statistics.median(times)


async def grouped(conninfo: str, name: str, *, callers: int, seconds: float) -> float:
    """Return the calls a second, each two durable rows."""
    insert = f"INSERT INTO {name} (body) SELECT unnest(%s::text[])"
    waiting: list[asyncio.Future[None]] = []
    arrived = asyncio.Event()
    calls = 0
    start = time.perf_counter()

    async def durable() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(future)
        arrived.set()
        await future

    async def call() -> None:
        nonlocal calls
        while time.perf_counter() < start + seconds:
            await durable()
            await durable()
            calls += 1

    async def write(connection: psycopg.AsyncConnection) -> None:
        nonlocal waiting
        while True:
            await arrived.wait()
            arrived.clear()
            group, waiting = waiting, []
            await connection.execute(insert, ([ROW] * len(group),), prepare=True)
            for future in group:
                future.set_result(None)

    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        writer = asyncio.create_task(write(connection))
        start = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(callers)))
        took = time.perf_counter() - start
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
    return calls / took


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("conninfo")
    parser.add_argument("--callers", type=int, default=8)
    given = parser.parse_args()
    with table(given.conninfo) as made:
        rounds = [asyncio.run(grouped(given.conninfo, made, callers=given.callers, seconds=2)) for _ in range(3)]
        figures = {
            "two_commits_p50_us": alone(given.conninfo, made, 300) * 1e6,
            "grouped_calls_s": statistics.median(rounds),
        }
        print(json.dumps({key: round(value, 1) for key, value in figures.items()}))
