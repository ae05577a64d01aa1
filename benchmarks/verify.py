"""`log verify` of a long log on an embedded Postgres, against a bare loop of COPY and sha256 (yardsticks/sums.py).

    python benchmarks/verify.py [--records 1000000] [--rounds 3] [--quick]

Both in one process each, in turn, and ours by two (`--jobs 2`);
medians of the rounds, and the most memory that a verification of its own had resident.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import psycopg
from database import embedded, fill
from yardsticks import sums

from mer.audit.log import AuditLog
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.store import PostgresStore


async def filled(login: ConnectionSettings, records: int) -> None:
    store = PostgresStore(login)
    await store.open()
    await fill(store, records)
    await store.close()


async def verified(login: ConnectionSettings, jobs: int = 1) -> float:
    """Return the records a second."""
    store = PostgresStore(login)
    await store.open()
    start = time.perf_counter()
    found = await AuditLog(store).verify(jobs=jobs)
    took = time.perf_counter() - start
    await store.close()
    assert found.sound, found.faults
    return found.records / took


def process(login: ConnectionSettings, told: multiprocessing.Queue) -> None:
    rate = asyncio.run(verified(login))
    told.put((rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def apart(login: ConnectionSettings) -> tuple[float, int]:
    """Return the records a second, and the most kB resident, of a fresh process that does nothing else."""
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    child = context.Process(target=process, args=(login, told))
    child.start()
    found: tuple[float, int] = told.get()
    child.join()
    return found


def compare(records: int, rounds: int) -> dict[str, float]:
    with embedded() as server:
        login, bare = server.driver(), conninfo(server.superuser())
        asyncio.run(filled(login, records))
        with psycopg.connect(conninfo(server.owner()), autocommit=True) as owner:
            owner.execute("VACUUM ANALYZE mer.access")
        found = []
        for _ in range(rounds):
            bare_rate = sums.hashed(bare)
            found.append((bare_rate, *apart(login), asyncio.run(verified(login, 2))))
    return {
        "records": records,
        "bare_records_s": statistics.median(each[0] for each in found),
        "ours_records_s": statistics.median(each[1] for each in found),
        "ratio": statistics.median(each[1] / each[0] for each in found),
        "two_jobs_records_s": statistics.median(each[3] for each in found),
        "two_jobs_to_one": statistics.median(each[3] / each[1] for each in found),
        "resident_mib": max(each[2] for each in found) / 1024,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="100,000 records, one round: to see that it runs")
    given = parser.parse_args()
    if given.quick:
        given.records, given.rounds = 100_000, 1
    load = os.getloadavg()[0]
    figures = compare(given.records, given.rounds)
    print("verify", json.dumps({key: round(value, 3) for key, value in figures.items()}), f"load before: {load:.1f}")
