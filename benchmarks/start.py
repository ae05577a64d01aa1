"""Starting the embedded Postgres and connecting to it, against PostgreSQL's own programs and psycopg (yardsticks/starts.py).

    python benchmarks/start.py [--rounds 7] [--connections 200] [--quick]

Cold: from an empty folder to a server that takes connections, against `initdb` and `pg_ctl start` of the same binaries.
(As root both are given the programs that the server's own user can run: they are copied once a version, and told apart.)
Connecting while it runs: whatever a program does until its first answer (the settings' store opened, the schema checked,
the head of the log), and the connection alone, against a psycopg connection with the same login. Ours and the bare ones
take turns; medians, and medians of the ratios. Everything runs in this process, whose imports are done.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from database import embedded, opened, state_folder
from yardsticks import starts

from mer.dal.postgres.account import Account, server_account
from mer.dal.postgres.binaries import programs_for
from mer.dal.postgres.connections import Connections
from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer.settings import Settings


def ours(state: Path, programs: Path) -> float:
    """Return the seconds of a first start in that state folder, to which the programs were copied before."""
    home = state / "postgres"
    for folder in (state, home):
        folder.mkdir()
        folder.chmod(state.parent.stat().st_mode)
    if programs.is_relative_to(state.parent):
        copy = state.parent / programs.relative_to(state.parent).parts[0]
        (home / copy.name).symlink_to(copy)
    server = EmbeddedPostgres(state)
    start = time.perf_counter()
    try:
        server.ensure_running()
        return time.perf_counter() - start
    finally:
        server.stop()


def bare(folder: Path, programs: Path, account: Account) -> float:
    """Return the seconds of the yardstick in that folder."""
    folder.mkdir(mode=0o700)
    os.chown(folder, account.uid, account.gid)
    with starts.cold(programs, folder, (account.uid, account.gid)) as took:
        return took


def cold(rounds: int) -> dict[str, float]:
    account, pairs = server_account(), []
    with state_folder() as place:
        start = time.perf_counter()
        programs = programs_for(account, place)
        copying = time.perf_counter() - start

        def one(number: int, who: str) -> float:
            folder = place / f"{who}-{number}"
            os.sync()  # what the one before has left to be written, and removed, is not this one's
            took = ours(folder, programs) if who == "ours" else bare(folder, programs, account)
            shutil.rmtree(folder)
            return took

        for number in range(rounds):
            order = ("ours", "bare") if number % 2 else ("bare", "ours")
            took = {who: one(number, who) for who in order}
            pairs.append((took["ours"], took["bare"]))
    return {"programs_copied_ms": 0.0 if account.ours else copying * 1e3} | compared(pairs)


async def until_the_first_answer(settings: Settings) -> float:
    start = time.perf_counter()
    async with opened(settings) as store:
        await store.access_log.head()
        return time.perf_counter() - start


async def connected(connections: Connections) -> float:
    start = time.perf_counter()
    await connections.open()
    took = time.perf_counter() - start
    await connections.close()
    return took


def connecting(times: int) -> dict[str, dict[str, float]]:
    with state_folder() as folder, embedded(folder) as server:
        login, settings = server.driver(), Settings(state_folder=folder)

        async def turns() -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
            whole, alone = [], []
            for _ in range(times):
                whole.append((await until_the_first_answer(settings), await starts.connected(conninfo(login))))
                alone.append((await connected(Connections(login)), await starts.connected(conninfo(login))))
            return whole, alone

        whole, alone = asyncio.run(turns())
    return {"until the first answer": compared(whole), "a connection": compared(alone)}


def compared(pairs: list[tuple[float, float]]) -> dict[str, float]:
    kept = pairs[len(pairs) // 10 :]
    return {
        "ours_ms": statistics.median(a for a, _ in kept) * 1e3,
        "bare_ms": statistics.median(b for _, b in kept) * 1e3,
        "ratio": statistics.median(a / b for a, b in kept),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="one start, 20 connections: to see that it runs")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.connections = 1, 20
    load = os.getloadavg()[0]
    results = {"cold start": cold(given.rounds)} | connecting(given.connections)
    for what, figures in results.items():
        shown = json.dumps({key: round(value, 2) for key, value in figures.items()})
        print(f"start, {what}", shown, f"load before: {load:.1f}")
