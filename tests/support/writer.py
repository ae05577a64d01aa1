"""A process that opens a store and writes to it: `python -m tests.support.writer NAME COUNT`, the store by STORE and its own
variables. It waits for a line on stdin before it begins, so that several begin at once."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from mer.core.errors import ConcurrentChange
from mer.core.identifiers import uuid7
from mer.core.records import LeaseId
from mer.dal.base import Store
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer.dal.postgres.store import PostgresStore
from tests.support import records


def store() -> Store:
    return PostgresStore(EmbeddedPostgres(Path(os.environ["FOLDER"]), database=os.environ["DATABASE"]).driver())


async def write(name: str, count: int) -> None:
    opened = store()
    await opened.open()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    chain, lease = await opened.access_log.chain(), LeaseId(uuid7())
    for number in range(count):
        of = records.invocation()
        await opened.access_log.append([records.started(chain, of, lease=lease, writer=name, number=number)])
        await opened.access_log.append([records.finished(chain, of, lease=lease, writer=name, number=number)])
        await register(opened)
    await opened.close()


async def register(opened: Store) -> None:
    model = await opened.models.get("digits")
    while True:
        try:
            async with opened.transaction() as inside:
                number = await inside.models.latest_version(model.id) + 1
                await inside.models.add_version(records.version(model, number))
                chain = await inside.access_log.chain()
                await inside.access_log.append([records.change(chain, "model.register", version=number)])
            return
        except ConcurrentChange:
            continue


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1], int(sys.argv[2])))
