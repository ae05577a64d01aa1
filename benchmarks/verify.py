"""`log verify` of a long log against a bare loop of COPY and sha256 (yardsticks/sums.py), where the log is in a Postgres.

    python benchmarks/verify.py [--database surrealkv|URL] [--records 1000000] [--rounds 3] [--quick]

The log is one that is made in an embedded Postgres, or in a SurrealDB in a folder of its own; or whatever a URL names,
migrated already, to which records are added (its login: DRIVER_DB_USERNAME, DRIVER_DB_PASSWORD). Ours and the bare one by
one process each, in turn, and ours by two (`--jobs 2`) where several processes may have the database open; medians of the
rounds, and the most memory that a verification of its own had resident.
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
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import psycopg
from database import chosen, embedded, fill, opened, shared, state_folder
from yardsticks import sums

from mer.audit.log import AuditLog
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer.dal.postgres.conninfo import conninfo
from mer.settings import Settings


async def filled(settings: Settings, records: int) -> None:
    async with opened(settings) as store:
        await fill(store, records)


async def verified(settings: Settings, jobs: int = 1) -> tuple[int, float]:
    """Return the records, and how many a second."""
    async with opened(settings) as store:
        start = time.perf_counter()
        found = await AuditLog(store).verify(jobs=jobs)
        took = time.perf_counter() - start
    assert found.sound, found.faults
    return found.records, found.records / took


def process(settings: Settings, told: multiprocessing.Queue) -> None:
    records, rate = asyncio.run(verified(settings))
    told.put((records, rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def apart(settings: Settings) -> tuple[int, float, int]:
    """Return the same and the most kB resident, of a fresh process that does nothing else."""
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    child = context.Process(target=process, args=(settings, told))
    child.start()
    found: tuple[int, float, int] = told.get()
    child.join()
    return found


def compare(database: str, records: int, rounds: int) -> dict[str, float]:
    found: dict[str, list[float]] = {}

    def note(**figures: float) -> None:
        for name, figure in figures.items():
            found.setdefault(name, []).append(figure)

    with ExitStack() as until_the_end:
        folder, bare = until_the_end.enter_context(state_folder()), ""
        if not database:
            server = until_the_end.enter_context(embedded(folder))
            bare = conninfo(server.driver())
        settings = chosen(database, folder)
        if settings.database_url.startswith("postgres"):
            url, name, password = settings.database_url, settings.driver_username, settings.driver_password
            bare = conninfo(ConnectionSettings.from_url(url, username=name, password=password))
        asyncio.run(filled(settings, records))
        if not database:
            with psycopg.connect(conninfo(server.owner()), autocommit=True) as owner:
                owner.execute("VACUUM ANALYZE mer.access")
        for _ in range(rounds):
            bare_rate = sums.hashed(bare) if bare else None
            there, ours, resident = apart(settings)
            note(records=there, ours_records_s=ours, resident_mib=resident / 1024)
            if bare_rate:
                note(bare_records_s=bare_rate, ratio=ours / bare_rate)
            if shared(settings):
                _, two = asyncio.run(verified(settings, 2))
                note(two_jobs_records_s=two, two_jobs_to_one=two / ours)
    medians = {name: statistics.median(figures) for name, figures in found.items()}
    return {**medians, "resident_mib": max(found["resident_mib"])}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", default="", help="surrealkv, or a URL; without it the embedded Postgres")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="20,000 records, one round: to see that it runs")
    given = parser.parse_args()
    if given.quick:
        given.records, given.rounds = 20_000, 1
    load = os.getloadavg()[0]
    figures = compare(given.database, given.records, given.rounds)
    shown = json.dumps({key: round(value, 3) for key, value in figures.items()})
    print("verify", given.database.partition(":")[0] or "postgres", shown, f"load before: {load:.1f}")
