"""Migrated SurrealDB folders for tests, and a hand that changes rows as no program of ours would."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mer.dal.surreal.migrations import open_migrations
from tests.support.surreal_process import ROOT


async def migrated(folder: Path) -> str:
    """Make a migrated database and return its URL."""
    url = f"surrealkv://{folder}"
    async with open_migrations(url, lock_seconds=10) as migrations:
        await migrations.upgrade()
    return url


async def by_hand(url: str, *statements: str) -> list[Any]:
    """Run statements as somebody with the files and the client library can, and return their results."""
    from surrealdb import AsyncSurreal

    engine = AsyncSurreal(url)
    await engine.connect()
    try:
        await engine.use("mer", "mer")
        answers = [await engine.query_raw(statement) for statement in statements]
    finally:
        await engine.close()
    return [result for answer in answers for result in answer["result"]]


@asynccontextmanager
async def process(what: str, url: str, *arguments: str) -> AsyncIterator[Process]:
    """Start tests.support.surreal_process, and kill it at the end if it still runs."""
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.surreal_process",
        what,
        url,
        *arguments,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()
