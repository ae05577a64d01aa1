"""Limits while something else is short as well: memory for our own words, files to look with, time of other requests."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mer.core.errors import LimitExceeded, MerError
from mer.core.specs import Limits
from mer.meal.session import Session
from mer_worker.tensors import encode
from tests.support.workers import session_with

SOURCE = """
    import os, threading, time
    KEPT = []
    def fill(kept):
        size = 1 << 28
        while size > 64:
            try:
                kept.append(bytes(size))
            except MemoryError:
                size >>= 1
    def spin(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass
    def load():
        def handle(inputs):
            do = inputs.get("do", "")
            if do == "fill":
                kept = []
                fill(kept)
                raise MemoryError("full")
            if do == "fill for ever":
                fill(KEPT)
                raise MemoryError("full")
            if do == "fill and sleep":
                fill(KEPT)
                time.sleep(60)
            if do == "go on behind":
                threading.Thread(target=spin, args=(inputs["seconds"],), daemon=True).start()
            if do == "open all and grow":
                try:
                    while True:
                        KEPT.append(open(os.devnull))
                except OSError:
                    pass
                while True:
                    KEPT.append(bytearray(os.urandom(1 << 20)))
            if do == "sleep":
                time.sleep(inputs["seconds"])
            return {"pid": os.getpid()}
        return handle
"""


async def ask(session: Session, **inputs: Any) -> dict[str, Any]:
    async with asyncio.timeout(30):
        return (await session.infer(encode(inputs))).outputs


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("do", ["fill", "fill for ever"])
async def test_where_no_byte_is_left_the_limit_is_named_still(tmp_path: Path, do: str, concurrency: int) -> None:
    limits = Limits(memory_bytes=256 << 20)
    async with session_with(tmp_path, SOURCE, limits=limits, concurrency=concurrency) as session:
        with pytest.raises(LimitExceeded, match=r"memory") as caught:
            await ask(session, do=do)
        assert caught.value.code == "limit:memory"
        if do == "fill":
            assert (await ask(session))["pid"]


async def test_time_is_held_where_no_byte_is_left(tmp_path: Path) -> None:
    limits = Limits(memory_bytes=256 << 20, wall_seconds=1.5)
    async with session_with(tmp_path, SOURCE, limits=limits) as session:
        with pytest.raises(MerError, match="limit") as caught:
            await ask(session, do="fill and sleep")
        assert caught.value.code in ("limit:wall", "limit:memory")


async def test_cpu_time_that_no_request_uses_ends_no_worker(tmp_path: Path) -> None:
    async with session_with(tmp_path, SOURCE, limits=Limits(cpu_seconds=0.3)) as session:
        pid = (await ask(session, do="go on behind", seconds=4))["pid"]
        await asyncio.sleep(4.3)
        assert session.lost is None
        assert (await ask(session))["pid"] == pid


async def test_a_request_that_waits_does_not_pay_for_the_others_of_its_worker(tmp_path: Path) -> None:
    limits = Limits(cpu_seconds=0.5)
    async with session_with(tmp_path, SOURCE, limits=limits, concurrency=2) as session:
        waiting = asyncio.ensure_future(ask(session, do="sleep", seconds=5))
        await asyncio.sleep(0.2)
        await ask(session, do="go on behind", seconds=4)
        assert (await waiting)["pid"]


async def test_memory_is_held_while_every_file_is_open(tmp_path: Path) -> None:
    limits = Limits(memory_bytes=200 << 20, open_files=64)
    async with session_with(tmp_path, SOURCE, limits=limits) as session:
        with pytest.raises(LimitExceeded) as caught:
            await ask(session, do="open all and grow")
        assert caught.value.code == "limit:memory"
        assert "held" in caught.value.message


async def test_the_stacks_of_many_requests_are_not_the_models_memory(tmp_path: Path) -> None:
    limits = Limits(memory_bytes=128 << 20)
    async with session_with(tmp_path, SOURCE, limits=limits, concurrency=120) as session:
        pids = await asyncio.gather(*(ask(session, do="sleep", seconds=1.0) for _ in range(120)))
        assert len({answer["pid"] for answer in pids}) == 1
