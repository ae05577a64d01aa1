"""A worker over a single stream: what it keeps while its model computes is bounded, and it hears cancels all the same."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mer.core.errors import Busy, Interrupted
from mer.core.specs import Batch
from mer.meal.host import Host
from mer_worker.backlog import MOST_WAITING
from mer_worker.tensors import Buffer, encode
from tests.support.peers import PEERS
from tests.support.workers import session_with, until

SLEEPS = """
    import time
    def load():
        def handle(inputs):
            time.sleep(inputs["seconds"])
            return inputs
        return handle
"""

TOGETHER: dict[str, tuple[str, dict[str, Any]]] = {
    "threads": ("def load():\n    return lambda inputs: inputs\n", {"concurrency": 4}),
    "tasks": (
        "def load():\n    async def handle(inputs):\n        return inputs\n    return handle\n",
        {"concurrency": 4},
    ),
    "batches": ("def load():\n    return lambda batch: batch\n", {"batch": Batch(max_size=4)}),
}


def one_stream(folder: Path) -> Host:
    return next(peer for peer in PEERS if peer.name == "in-band").host(folder)


async def test_requests_beyond_what_it_keeps_are_busy_and_a_cancel_is_heard(tmp_path: Path) -> None:
    async with session_with(tmp_path, SLEEPS, host=one_stream(tmp_path)) as session:
        first = asyncio.ensure_future(session.infer(encode({"seconds": 60})))
        await until(lambda: session.busy == 1)
        await asyncio.sleep(0.2)
        rest = [asyncio.ensure_future(session.infer(encode({"seconds": 0}))) for _ in range(MOST_WAITING + 10)]
        await until(lambda: session.busy <= MOST_WAITING + 1, seconds=30)
        first.cancel()
        results = await asyncio.gather(*rest, return_exceptions=True)
        refused = [result for result in results if isinstance(result, BaseException)]
        assert 0 < len(refused) <= 10
        assert all(isinstance(error, Busy) and "requests wait in this worker" in error.message for error in refused)
        assert (await session.infer(encode({"seconds": 0}))).outputs == {"seconds": 0}


@pytest.mark.parametrize("way", TOGETHER)
async def test_several_at_once_work_over_a_single_stream(tmp_path: Path, way: str) -> None:
    source, given = TOGETHER[way]
    async with session_with(tmp_path, source, host=one_stream(tmp_path), **given) as session:
        for _ in range(3):
            replies = await asyncio.gather(*(session.infer(encode({"n": n})) for n in range(40)))
            assert [reply.outputs["n"] for reply in replies] == list(range(40))


async def test_a_cancel_of_one_that_waits_is_its_outcome_when_its_turn_comes(tmp_path: Path) -> None:
    async with session_with(tmp_path, SLEEPS, host=one_stream(tmp_path)) as session:
        first = asyncio.ensure_future(session.infer(encode({"seconds": 0.5})))
        await asyncio.sleep(0.1)
        request, call = await session.begin(lambda number: encode({"seconds": 0}).message(3, number))
        session.cancel(request)
        with pytest.raises(Interrupted):
            await session.outcome(request, call)
        assert (await first).outputs == {"seconds": 0.5}


async def test_a_batch_of_several_that_computes_keeps_no_ping_waiting(tmp_path: Path) -> None:
    source = """
        import time
        def load():
            def handle(batch):
                time.sleep(len(batch))
                return batch
            return handle
    """
    async with session_with(tmp_path, source, host=one_stream(tmp_path), batch=Batch(max_size=4)) as session:
        warm = {"x": Buffer(bytes(4), "float32", (1,))}
        await session.infer_values(warm)  # from then on by the shortest way
        computing = [asyncio.ensure_future(session.infer_values(warm)) for _ in range(4)]
        await asyncio.sleep(0.5)
        assert await session.ping(seconds=2.0) < 1.0
        assert not any(each.done() for each in computing)
        await asyncio.gather(*computing)
