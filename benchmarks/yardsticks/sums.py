"""Yardstick: reading every record's text by COPY and hashing it, and nothing else: no parsing, no chain, no columns.

    python benchmarks/yardsticks/sums.py postgresql://…

Prints the records a second.
"""

from __future__ import annotations

import hashlib
import sys
import time

import psycopg

COPY = "COPY (SELECT body FROM mer.access ORDER BY seq) TO STDOUT (FORMAT binary)"


def hashed(conninfo: str) -> float:
    """Return the records a second."""
    start, records = time.perf_counter(), 0
    with psycopg.connect(conninfo, autocommit=True) as connection, connection.cursor().copy(COPY) as copy:
        copy.set_types(["text"])
        for (body,) in copy.rows():
            hashlib.sha256(body.encode()).hexdigest()
            records += 1
    return records / (time.perf_counter() - start)


if __name__ == "__main__":
    print(round(hashed(sys.argv[1])))
