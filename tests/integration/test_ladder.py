"""A request that is to stop: acknowledged with its outcome, or ever firmer until its worker is gone, each step bounded."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path
from typing import Any

import pytest

from mer.core.errors import DeadlineExceeded, Interrupted, WorkerLost
from mer.meal.ladder import CANCELS, OTHERS, STEP
from mer.meal.pool import Pool
from mer.meal.session import Session
from mer.meal.streams import PartStream, inference
from mer_worker.tensors import encode
from tests.support.workers import alive, local_host, plan_of, session_with, soon, until

SOURCE = """
    import os, signal, time
    swallowed = 0
    def load():
        def handle(inputs):
            global swallowed
            if inputs.get("deaf"):
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            swallowed, most = 0, inputs.get("swallow", 0)
            end = time.monotonic() + inputs.get("seconds", 0)
            while time.monotonic() < end:
                try:
                    time.sleep(0.01)
                except BaseException:
                    swallowed += 1
                    if swallowed > most:
                        raise
            return {"pid": os.getpid(), "swallowed": swallowed}
        return handle
"""

STEPS = STEP * (CANCELS + 1)
SLACK = 5.0
"""Seconds for a loaded machine."""


async def ask(session: Session, **inputs: Any) -> dict[str, Any]:
    return (await session.infer(encode(inputs))).outputs


async def test_a_cancel_is_acknowledged_with_the_outcome(tmp_path: Path) -> None:
    async with session_with(tmp_path, SOURCE) as session:
        call = asyncio.ensure_future(ask(session, seconds=60))
        await asyncio.sleep(0.2)
        session.cancel(2)  # the load was 1
        with pytest.raises(Interrupted):
            await call
        assert session.busy == 0
        session.cancel(2)  # of a request that is over
        session.cancel(3)  # of one that was not sent yet
        await session.ping()  # the request itself goes another way, and might overtake it
        with pytest.raises(Interrupted):
            await ask(session)
        assert (await ask(session))["swallowed"] == 0


async def test_a_handler_that_caught_the_first_cancel_gets_a_second_one(tmp_path: Path) -> None:
    async with session_with(tmp_path, SOURCE) as session:
        pid = (await ask(session))["pid"]
        with pytest.raises(DeadlineExceeded, match="it was stopped"):
            await session.infer(encode({"seconds": 60, "swallow": 1}), deadline=soon(0.2))
        assert (await ask(session))["pid"] == pid


@pytest.mark.parametrize("deaf", [False, True], ids=["to cancels", "to SIGTERM too"])
async def test_one_that_caught_both_costs_its_worker_in_bounded_time(tmp_path: Path, deaf: bool) -> None:
    async with session_with(tmp_path, SOURCE) as session:
        pid = (await ask(session))["pid"]
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="its worker was ended"):
            await session.infer(encode({"seconds": 60, "swallow": 99, "deaf": deaf}), deadline=soon(0.2))
        assert time.monotonic() - began < 0.2 + STEPS + SLACK
        await until(lambda: not alive(pid))
        with pytest.raises(WorkerLost, match="did not let itself be stopped"):
            await ask(session)


async def test_whoever_goes_away_sets_the_same_steps_going(tmp_path: Path) -> None:
    async with session_with(tmp_path, SOURCE) as session:
        pid = (await ask(session))["pid"]
        call = asyncio.ensure_future(ask(session, seconds=60, swallow=99))
        await asyncio.sleep(0.1)
        call.cancel()
        async with asyncio.timeout(STEPS + SLACK):
            await session.settled()
        await until(lambda: not alive(pid))


async def test_a_pool_replaces_a_worker_that_had_to_be_ended(tmp_path: Path) -> None:
    pool, host, plan = Pool(), local_host(tmp_path), plan_of(tmp_path / "m", SOURCE)
    try:
        async with pool.worker(host, plan) as session:
            pid = (await ask(session))["pid"]
            with pytest.raises(DeadlineExceeded):
                await session.infer(encode({"seconds": 60, "swallow": 99}), deadline=soon(0.1))
        async with pool.worker(host, plan) as session:
            assert (await ask(session))["pid"] != pid
        assert pool.workers <= 2
    finally:
        await pool.close()
    assert not alive(pid)


async def test_a_missed_ping_alone_kills_nothing(tmp_path: Path) -> None:
    source = "def load():\n    return lambda inputs: {'sum': sum(range(inputs['to']))}\n"
    async with session_with(tmp_path, source) as session:
        call = asyncio.ensure_future(
            ask(session, to=60_000_000)
        )  # C code that keeps Python's lock for a second or more
        await asyncio.sleep(0.1)
        with pytest.raises(DeadlineExceeded, match="ping"):
            await session.ping(seconds=0.05)
        assert (await call)["sum"] == sum(range(60_000_000))
        assert await session.ping() < 5


async def test_who_lets_go_of_a_stream_and_then_of_its_end_leaves_no_error_unseen(tmp_path: Path) -> None:
    unseen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unseen.append(context))
    async with session_with(tmp_path, SOURCE) as session:
        stream = await PartStream.open(session, await inference(session, encode({"seconds": 60, "swallow": 99})))
        await asyncio.sleep(0.2)
        closing = asyncio.create_task(stream.aclose())
        await asyncio.sleep(0.1)
        closing.cancel()  # a second Ctrl-C
        await asyncio.wait((closing,))
        await until(lambda: session.lost is not None)
    del stream, closing
    gc.collect()
    assert unseen == []


async def test_a_worker_that_was_given_up_ends_with_the_last_answer_though_that_is_a_small_one(tmp_path: Path) -> None:
    source = (
        SOURCE.replace('inputs.get("seconds", 0)', 'float(inputs["seconds"][0])')
        .replace('inputs.get("swallow", 0)', '99 if len(inputs["seconds"]) > 1 else 0')
        .replace('{"pid": os.getpid(), "swallowed": swallowed}', '{"seconds": ["1"]}')
    )
    async with session_with(tmp_path, source, concurrency=2) as session:
        pid = session.hello["pid"]
        for _ in range(2):
            await session.infer_values({"seconds": ["0"]})
        stuck = asyncio.ensure_future(session.infer(encode({"seconds": ["60", "deaf"]}), deadline=soon(0.1)))
        call = session.shortcut.send({"seconds": [f"{STEPS + 2}"]})
        assert call is not None, "it is small, and its head was sent before"
        with pytest.raises(DeadlineExceeded):
            await stuck
        assert session.ladder.given_up is not None
        assert alive(pid)
        await call.future
        await until(lambda: not alive(pid), seconds=OTHERS - 3)
