"""What prints while its own thread writes a frame: a signal's handler, a destructor that the garbage collector calls."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mer.core.errors import WorkerLost
from mer.meal.library import load_unpacked
from tests.support.workers import handler_folder, local_host

PATIENT = 30

SOURCE = """
    import signal, sys

    count = 0
    telling = False

    def tell(*_):
        global count, telling
        if not telling:  # one within another would be Python's own trouble
            telling = True
            sys.stdout.write(f"tick {count + 1}\\n")
            count += 1
            telling = False

    def parts():
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
        try:
            for number in range(8):
                yield {"x": bytes([number]) * (4 << 20)}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        yield {"ticks": count}

    def one_at_a_time(inputs):
        yield from parts()

    async def tasks(inputs):
        for part in parts():
            yield part

    def tear(_number, frame):
        if frame.f_code.co_filename.endswith("channel.py") and frame.f_code.co_name == "_rest":
            raise failing("the model's own alarm")

    def torn(inputs):
        global failing
        failing = TimeoutError if "timeout" in inputs else ValueError
        signal.signal(signal.SIGALRM, tear)
        while True:
            yield from parts()

    def load(way):
        signal.signal(signal.SIGALRM, tell)
        return globals()[way]
"""


@pytest.mark.parametrize("way", ["one_at_a_time", "tasks"])
async def test_follow_the_frame_that_is_being_written(tmp_path: Path, way: str) -> None:
    folder, said, ticks = handler_folder(tmp_path / "model", SOURCE), bytearray(), 0
    host = local_host(tmp_path, memory_bytes=0)  # large parts go by the pipe, in many writes
    opening = load_unpacked(
        folder,
        entry="handler:load",
        options={"way": way},
        arrays="buffer",
        host=host,
        on_log=lambda _stream, _level, text: said.extend(text),
    )
    async with asyncio.timeout(PATIENT), await opening as model:
        async for part in model.stream({}):
            if "x" in part:
                assert (len(part["x"]), len(set(part["x"]))) == (4 << 20, 1)
            else:
                ticks = part["ticks"]
    assert ticks
    assert said.splitlines() == [f"tick {number}".encode() for number in range(1, ticks + 1)]


@pytest.mark.parametrize("inputs", [{}, {"timeout": 1}], ids=["an error", "what reads like the driver's end"])
async def test_one_that_is_cut_off_ends_the_worker_and_leaves_nobody_waiting(
    tmp_path: Path, inputs: dict[str, int]
) -> None:
    folder = handler_folder(tmp_path / "model", SOURCE)
    host = local_host(tmp_path, memory_bytes=0)
    opening = load_unpacked(
        folder, entry="handler:load", options={"way": "torn"}, arrays="buffer", host=host, on_log=lambda *_: None
    )
    async with asyncio.timeout(PATIENT), await opening as model:
        with pytest.raises(WorkerLost, match="the model's own alarm"):
            async for _ in model.stream(inputs):
                pass
