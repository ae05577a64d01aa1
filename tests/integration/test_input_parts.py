"""Input parts and the memory that they are made in; streams that are left by a caller in a hurry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from mer.meal.streams import PartStream, encoded_parts, inference
from mer_worker.tensors import Buffer, encode
from tests.support.workers import session_with

TELLS = """
    import time

    def load():
        return handle

    def handle(inputs, context):
        if inputs["do"] == "firsts":
            first = True
            for part in context.parts():
                if first:
                    time.sleep(0.3)  # the pipe fills up meanwhile
                first = False
                yield {"first": part["x"].data[0], "last": part["x"].data[-1]}
        else:
            while True:
                yield {"more": True}
"""

SMALL = 24 << 10
"""Too small for shared memory: it goes with its frame."""


async def test_a_caller_may_make_each_part_in_the_same_memory(tmp_path: Path) -> None:
    memory = bytearray(SMALL)

    def parts() -> Iterator[dict[str, Any]]:
        for number in range(100):
            memory[:] = bytes((number,)) * SMALL
            yield {"x": Buffer(memory, "uint8", (SMALL,))}

    async with session_with(tmp_path, TELLS, arrays="buffer") as session:
        message = await inference(session, encode({"do": "firsts"}))
        stream = await PartStream.open(session, message, parts=encoded_parts(parts()))
        try:
            told = [reply.outputs async for reply in stream]
        finally:
            await stream.aclose()
    assert told == [{"first": number, "last": number} for number in range(100)]


async def test_a_caller_who_will_not_wait_for_his_own_parts_still_cancels_the_request(tmp_path: Path) -> None:
    holding = asyncio.Event()

    async def parts() -> AsyncIterator[dict[str, Any]]:
        try:
            await asyncio.sleep(60)
            yield {"x": 1}
        finally:
            holding.set()
            await asyncio.sleep(5)

    async with session_with(tmp_path, TELLS, arrays="buffer") as session:
        message = await inference(session, encode({"do": "endless"}))
        stream = await PartStream.open(session, message, parts=encoded_parts(parts()))
        await anext(stream)
        closing = asyncio.create_task(stream.aclose())
        await asyncio.wait_for(holding.wait(), 10)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await asyncio.wait_for(session.settled(), 10)  # else the worker would wait for credit for ever
        assert session.lost is None
