"""Pages of a long access log on Postgres, through the store, against the bare queries by psycopg.

    python benchmarks/log_list.py [--records 1000000] [--rounds 300] [--quick]

Makes an embedded Postgres whose log is of 20 models in turn, over 30 days, and asks for 50 records at a time: the newest, and
the newest of one model on one day (each round another day). Ours is `AuditLog.list` (typed records, as `mer log list` has
them); bare is a psycopg connection and the query that somebody would write for it, prepared as psycopg does it. Prints
medians and the median of the ratios; both must give the same records.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import psycopg
from database import SUBJECT, embedded, fill, state_folder

from mer.audit.log import AuditLog
from mer.core.records import AccessFilter, AccessRecord
from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.store import PostgresStore

MODELS = 20
DAYS = 30

COLUMNS = "seq, previous, digest, body, kind, at, invocation, lease, actor, model, version, server, outcome, action"
NEWEST = f"SELECT {COLUMNS} FROM mer.access ORDER BY seq DESC LIMIT 50"
OF_A_DAY = (
    f"SELECT {COLUMNS} FROM mer.access WHERE model = %(model)s AND at >= %(since)s AND at < %(until)s"
    " ORDER BY seq DESC LIMIT 50"
)


async def turns(
    rounds: int, ours: Callable[[int], Awaitable[list[int]]], bare: Callable[[int], Awaitable[list[int]]]
) -> dict[str, float]:
    """Measure both in turn. Each is given the round's number, and returns the records' places."""
    pairs = []
    for number in range(rounds):
        start = time.perf_counter()
        found = await ours(number)
        middle = time.perf_counter()
        expected = await bare(number)
        pairs.append((middle - start, time.perf_counter() - middle))
        assert found == expected, (found, expected)
        assert found
    pairs = pairs[rounds // 10 :]
    return {
        "ours_ms": statistics.median(a for a, _ in pairs) * 1e3,
        "bare_ms": statistics.median(b for _, b in pairs) * 1e3,
        "ratio": statistics.median(a / b for a, b in pairs),
    }


async def measured(store: PostgresStore, bare: psycopg.AsyncConnection, rounds: int) -> dict[str, dict[str, float]]:
    log, now = AuditLog(store), dt.datetime.now(dt.UTC)

    async def newest(_: int) -> list[int]:
        return places((await log.list(limit=50)).items)

    async def bare_newest(_: int) -> list[int]:
        return [row[0] for row in await (await bare.execute(NEWEST)).fetchall()]

    def day(number: int) -> tuple[dt.datetime, dt.datetime]:
        since = now - dt.timedelta(days=DAYS - number % (DAYS - 1))
        return since, since + dt.timedelta(days=1)

    async def of_a_day(number: int) -> list[int]:
        since, until = day(number)
        where = AccessFilter(model=SUBJECT.model, since=since, until=until)
        return places((await log.list(where, limit=50)).items)

    async def bare_of_a_day(number: int) -> list[int]:
        since, until = day(number)
        parameters = {"model": SUBJECT.model, "since": since, "until": until}
        return [row[0] for row in await (await bare.execute(OF_A_DAY, parameters)).fetchall()]

    return {
        "newest": await turns(rounds, newest, bare_newest),
        "one model, one day": await turns(rounds, of_a_day, bare_of_a_day),
    }


def places(records: tuple[AccessRecord, ...]) -> list[int]:
    return [record.seq for record in records]


async def compare(records: int, rounds: int) -> dict[str, dict[str, float]]:
    with state_folder() as folder, embedded(folder) as server:
        store = PostgresStore(server.driver())
        await store.open()
        bare = await psycopg.AsyncConnection.connect(conninfo(server.driver()), autocommit=True)
        try:
            await fill(store, records, models=MODELS, days=DAYS)
            with psycopg.connect(conninfo(server.owner()), autocommit=True) as owner:
                owner.execute("VACUUM ANALYZE mer.access")
            return await measured(store, bare, rounds)
        finally:
            await bare.close()
            await store.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="20,000 records, 50 rounds: to see that it runs")
    given = parser.parse_args()
    if given.quick:
        given.records, given.rounds = 20_000, 50
    load = os.getloadavg()[0]
    for what, figures in asyncio.run(compare(given.records, given.rounds)).items():
        shown = json.dumps({"records": given.records} | {key: round(value, 3) for key, value in figures.items()})
        print(f"log list, {what}", shown, f"load before: {load:.1f}")
