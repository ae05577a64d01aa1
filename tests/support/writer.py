"""A process that opens the store of its environment and writes to it: `python -m tests.support.writer NAME COUNT`.

It waits for a line on stdin before it begins, so that several begin at once.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from mer.core.errors import ConcurrentChange
from mer.core.identifiers import uuid7
from mer.core.records import LeaseId
from mer.dal.base import Store
from mer.dal.open import open_store
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer.dal.postgres.store import PostgresStore
from mer.settings import load
from tests.support import records


async def open_named() -> Store:
    """Open the store of the environment: by a URL as an operator would, or a database of an embedded server's."""
    if "DB_CONNECTION_URL" in os.environ:
        return await open_store(load(environ=os.environ))
    opened = PostgresStore(EmbeddedPostgres(Path(os.environ["FOLDER"]), database=os.environ["DATABASE"]).driver())
    await opened.open()
    return opened


async def write(name: str, count: int) -> None:
    opened = await open_named()
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
