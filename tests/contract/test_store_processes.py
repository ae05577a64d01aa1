"""Several processes that write at once lose nothing."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from mer.core.chain import Verifier
from mer.dal.base import Store
from tests.support import records
from tests.support.stores import Database

ROOT = Path(__file__).parents[2]
EACH = 15


async def start(name: str, database: Database) -> asyncio.subprocess.Process:
    writer = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.writer", name, str(EACH)),
        cwd=ROOT,
        env=database.environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert writer.stdout
    assert await writer.stdout.readline() == b"ready\n"
    return writer


async def test_two_processes_that_write_at_once_lose_nothing(database: Database, store: Store) -> None:
    if not database.shared or not database.environment:
        pytest.skip("one process at a time")
    model = records.model("digits")
    await store.models.add(model)
    writers = [await start(name, database) for name in ("a", "b")]
    await asyncio.gather(*(writer.communicate(b"go\n") for writer in writers))
    assert [writer.returncode for writer in writers] == [0, 0]

    verifier = Verifier(chain=await store.access_log.chain())
    bodies = []
    async for chunk in store.access_log.scan():
        verifier.feed(chunk)
        bodies += [json.loads(record.body) for record in chunk]
    assert verifier.finish() == []
    told = Counter((body.get("writer"), body["kind"]) for body in bodies)
    assert told == {(name, kind): EACH for name in "ab" for kind in ("started", "finished")} | {
        (None, "change"): 2 * EACH
    }
    registered = [body["version"] for body in bodies if body["kind"] == "change"]
    assert registered == list(range(1, 2 * EACH + 1))
    assert await store.models.latest_version(model.id) == 2 * EACH
