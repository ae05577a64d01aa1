"""100,000 calls, of several kinds, on one worker: neither side grows, and nothing is left open."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest

from mer.core.errors import ModelFailed
from mer.meal.library import load_unpacked
from mer.meal.loaded import WorkerModel
from tests.support.workers import handler_folder, local_host, open_descriptors

CALLS = 100_000
WARM = 20_000
"""Calls before the first look: caches fill, allocators find their size."""

HANDLER = """
    def load():
        def handle(inputs):
            if "fail" in inputs:
                raise ValueError("as asked")
            if "say" in inputs:
                print(inputs["say"])
            return inputs
        return handle
"""


def kilobytes(pid: int | str) -> int:
    """Return what a process has in memory of its own."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise AssertionError("the kernel does not say")


@pytest.mark.slow
async def test_a_hundred_thousand_calls_leave_both_sides_as_they_were(tmp_path: Path) -> None:
    folder, host = handler_folder(tmp_path / "model", HANDLER), local_host(tmp_path)
    small = {"x": np.arange(256, dtype="f4")}
    unlike = {"texts": ["a", "b"], "j": {"k": [1, 2]}, "n": [np.zeros(3), np.ones((2, 2))]}
    async with await load_unpacked(folder, entry="handler:load", host=host) as model:
        assert isinstance(model, WorkerModel)
        worker = model.session.hello["pid"]

        async def calls(count: int) -> None:
            for number in range(count):
                await model.infer(small)
                if number % 50 == 0:
                    await model.infer(unlike | {f"name {number % 3000}": number})
                if number % 500 == 0:
                    await model.infer({"say": "hello"}, on_log=lambda *_: None, timeout=60)
                    with pytest.raises(ModelFailed):
                        await model.infer({"fail": True})
                if number % 1000 == 0:
                    await asyncio.gather(*(model.infer(small) for _ in range(20)))

        await calls(WARM)
        before = kilobytes("self"), kilobytes(worker), open_descriptors(), len(os.listdir(f"/proc/{worker}/fd"))
        await calls(CALLS - WARM)
        after = kilobytes("self"), kilobytes(worker), open_descriptors(), len(os.listdir(f"/proc/{worker}/fd"))
        for name, was, now in zip(("driver", "worker"), before, after, strict=False):
            assert now <= 1.02 * was + 1024, f"the {name} had {was} kB, and has {now}"
        assert after[2:] == before[2:]
