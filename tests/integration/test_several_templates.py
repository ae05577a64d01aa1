"""Heads of answers are named where several requests run at once, and leave in the order in which they were named."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from mer.meal.library import load_unpacked
from mer.meal.loaded import WorkerModel
from mer_worker.templates import MOST_TEMPLATES
from mer_worker.tensors import Buffer
from tests.support.workers import handler_folder, local_host

THREADS = """
    def load():
        return lambda inputs: inputs
"""

TASKS = """
    import asyncio

    def load():
        async def handle(inputs):
            await asyncio.sleep(0)
            return inputs
        return handle
"""

THREADS_PARTS = """
    def load():
        def handle(inputs):
            for name, value in inputs.items():
                yield {name: value}
        return handle
"""

TASKS_PARTS = """
    import asyncio

    def load():
        async def handle(inputs):
            for name, value in inputs.items():
                await asyncio.sleep(0)
                yield {name: value}
        return handle
"""

CALLERS = 8
CALLS = 40


def values(caller: int, call: int) -> dict[str, Any]:
    """Return values of more layouts than there are numbers, some of them of everybody, so that numbers are given anew."""
    size = random.Random(call).choice((1, call + 1, 8 * caller + 1))
    return {
        f"own {caller} {call}": Buffer(bytes([caller, call]) * size, "uint8", (2 * size,)),
        "often": Buffer(bytes([call]) * 64, "uint8", (64,)),
        "texts": [f"{caller} {call}"] * (1 + call % 3),
    }


def same(got: dict[str, Any], given: dict[str, Any]) -> bool:
    return {name: bytes(value.data) if isinstance(value, Buffer) else value for name, value in got.items()} == {
        name: bytes(value.data) if isinstance(value, Buffer) else value for name, value in given.items()
    }


@pytest.mark.parametrize(
    "source",
    [THREADS, TASKS, THREADS_PARTS, TASKS_PARTS],
    ids=["threads", "tasks", "parts of threads", "parts of tasks"],
)
async def test_whatever_many_callers_are_answered_is_theirs(tmp_path: Path, source: str) -> None:
    folder, parts = handler_folder(tmp_path / "model", source), "yield" in source
    opening = load_unpacked(
        folder, entry="handler:load", arrays="buffer", host=local_host(tmp_path), concurrency=CALLERS
    )
    async with asyncio.timeout(60), await opening as model:
        assert isinstance(model, WorkerModel)

        async def caller(number: int) -> None:
            for call in range(CALLS):
                given = values(number, call)
                if not parts:
                    for name, value in given.items():
                        assert same(await model.infer({name: value}), {name: value})
                    continue
                got: dict[str, Any] = {}
                async for part in model.stream(given):
                    got.update(part)
                assert same(got, given)

        await asyncio.gather(*(caller(number) for number in range(CALLERS)))
        assert len(model.session._incoming._heads) == MOST_TEMPLATES
