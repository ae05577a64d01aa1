"""Cancels that hit threads at any instruction: no frame is torn, no request without its outcome, none hit by another's cancel."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from mer_worker.tensors import encode
from tests.support.workers import session_with

SOURCES = {
    "threads": """
        import sys
        def load():
            def handle(inputs):
                for number in range(inputs["lines"]):
                    print("line", number, "x" * (number % 300))
                    if number % 7 == 0:
                        print("to stderr", file=sys.stderr, end="")
                return {"done": inputs["lines"]}
            return handle
    """,
    "tasks": """
        import asyncio
        def load():
            async def handle(inputs):
                for number in range(inputs["lines"]):
                    print("line", number, "x" * (number % 300))
                    if number % 3 == 0:
                        await asyncio.sleep(0)
                return {"done": inputs["lines"]}
            return handle
    """,
    "swallowing": """
        def load():
            def handle(inputs):
                for number in range(inputs["lines"]):
                    try:
                        print("line", number)
                    except BaseException:
                        pass
                return {"done": inputs["lines"]}
            return handle
    """,
    "batches": """
        def load():
            def handle(batch):
                for number in range(max(inputs["lines"] for inputs in batch)):
                    print("line", number)
                return [{"done": inputs["lines"]} for inputs in batch]
            return handle
    """,
}


@pytest.mark.parametrize("way", SOURCES)
async def test_a_storm_of_cancels_leaves_the_conversation_whole(tmp_path: Path, way: str) -> None:
    from mer.core.specs import Batch

    chance = random.Random(7)
    given = {"batch": Batch(max_size=4)} if way == "batches" else {"concurrency": 4}
    async with session_with(tmp_path, SOURCES[way], **given) as session:

        async def call(number: int) -> None:
            quick = number % 5 == 0
            asked = asyncio.ensure_future(session.infer(encode({"lines": 3 if quick else 1500})))
            if quick:  # nobody cancels these: each has its own answer
                assert (await asked).outputs == {"done": 3}
                return
            await asyncio.sleep(chance.random() * 0.03)
            asked.cancel()
            await asyncio.wait((asked,))

        for _ in range(10):
            await asyncio.gather(*(call(number) for number in range(20)))
        async with asyncio.timeout(20):
            await session.settled()
        assert session.lost is None
        assert (await session.infer(encode({"lines": 1}))).outputs == {"done": 1}
        assert (await session.pulse()).running == ()
