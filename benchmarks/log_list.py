"""The newest page of a long access log on Postgres: through the store, against the bare query by psycopg.

    python benchmarks/log_list.py [--records 200000] [--rounds 300]

Makes an embedded Postgres in a folder of its own, fills its log through the append function, and asks for the newest 50
records in turn: `AuditLog.list` (typed records, as `mer log list` has them) and one psycopg connection with the same SQL's
bare columns. Prints medians and the median of the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import psycopg
from database import embedded, fill, state_folder

from mer.audit.log import AuditLog
from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.store import PostgresStore

BARE = (
    "SELECT seq, previous, digest, body, kind, at, invocation, lease, actor, model, version, server, outcome, action"
    " FROM mer.access ORDER BY seq DESC LIMIT 50"
)


async def compare(records: int, rounds: int) -> dict[str, float]:
    with state_folder() as folder, embedded(folder) as server:
        login = server.driver()
        store = PostgresStore(login)
        await store.open()
        bare = await psycopg.AsyncConnection.connect(conninfo(login), autocommit=True)
        try:
            await fill(store, records)
            with psycopg.connect(conninfo(server.owner()), autocommit=True) as owner:
                owner.execute("VACUUM ANALYZE mer.access")
            log = AuditLog(store)
            pairs = []
            for _ in range(rounds):
                start = time.perf_counter()
                page = await log.list(limit=50)
                middle = time.perf_counter()
                rows = await (await bare.execute(BARE)).fetchall()
                pairs.append((middle - start, time.perf_counter() - middle))
                assert [record.seq for record in page.items] == [row[0] for row in rows]
            pairs = pairs[rounds // 10 :]
        finally:
            await bare.close()
            await store.close()
    return {
        "records": records,
        "ours_ms": statistics.median(a for a, _ in pairs) * 1e3,
        "bare_ms": statistics.median(b for _, b in pairs) * 1e3,
        "ratio": statistics.median(a / b for a, b in pairs),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=300)
    arguments = parser.parse_args()
    figures = asyncio.run(compare(arguments.records, arguments.rounds))
    print("log list, newest 50", json.dumps({key: round(value, 3) for key, value in figures.items()}))
