"""Sealed inputs that are let go of while their worker computes: their invocation ends on record all the same, and soon."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from mer.api import Mer
from mer.execution import sealing
from tests.support.running import register, running
from tests.support.workers import eventually

SOURCE = """
    import time

    def load():
        def handle(inputs):
            time.sleep(inputs["seconds"])
            return inputs
        return handle
"""


async def finishes(mer: Mer) -> list[tuple[str, str]]:
    """Return the invocations that have ended, and how, the last first."""
    page = await mer.log.list(limit=20)
    bodies = [json.loads(record.body) for record in page.items if record.columns["kind"] == "finished"]
    return [(body["invocation"], body["outcome"]) for body in bodies]


async def test_a_release_whose_caller_goes_stands_on_record(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, SOURCE)
        sealed = await m.seal("model", {"seconds": 0})
        computing = asyncio.create_task(m.run("model", {"seconds": 0.5}))
        await asyncio.sleep(0.1)
        releasing = asyncio.create_task(m.release(sealed))
        await asyncio.sleep(0.05)
        releasing.cancel()
        await asyncio.gather(releasing, return_exceptions=True)
        assert (await computing).outputs == {"seconds": 0.5}

        async def ended() -> bool:
            return (sealed.invocation, "cancelled") in await finishes(m)

        await eventually(ended)


async def test_no_release_waits_for_as_long_as_the_model_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "RELEASE_SECONDS", 0.1)
    async with running(tmp_path) as m:
        await register(m, tmp_path, SOURCE)
        sealed = await m.seal("model", {"seconds": 0})
        computing = asyncio.create_task(m.run("model", {"seconds": 60}))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(20):
            assert await m.release(sealed)
        assert await finishes(m) == [(sealed.invocation, "cancelled")]
        assert not computing.done()
        computing.cancel()
        await asyncio.gather(computing, return_exceptions=True)
