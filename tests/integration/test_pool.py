"""Warm workers: shared, bounded, ended when idle, replaced when lost, set aside when they cannot be started."""

from __future__ import annotations

import asyncio
import os
import signal
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mer.core.errors import Busy, DeadlineExceeded, ModelFailed, WorkerLost
from mer.core.specs import Command, VersionSpec
from mer.meal.local import LocalHost
from mer.meal.pool import Pool, WorkerPlan
from mer_worker.tensors import encode
from tests.support.workers import alive, local_host, plan_of, until

WHO = """
    import os, time
    def load():
        def handle(inputs):
            time.sleep(inputs.get("sleep", 0))
            if inputs.get("die"):
                os._exit(5)
            return {"pid": os.getpid()}
        return handle
"""


@pytest.fixture
async def host(tmp_path: Path) -> LocalHost:
    return local_host(tmp_path)


@pytest.fixture
async def pools() -> AsyncIterator[list[Pool]]:
    made: list[Pool] = []
    yield made
    for pool in made:
        await pool.close()
        assert pool.workers == 0


async def pid_of(pool: Pool, host: LocalHost, plan: WorkerPlan, *, owner: str | None = None, **inputs: object) -> int:
    async with pool.worker(host, plan, owner=owner) as session:
        return (await session.infer(encode(inputs))).outputs["pid"]


def pool_of(pools: list[Pool], **given: object) -> Pool:
    pools.append(Pool(**given))  # type: ignore[arg-type]
    return pools[-1]


async def test_the_next_call_finds_the_worker_warm(tmp_path, host, pools):
    pool, plan, timings = pool_of(pools), plan_of(tmp_path / "m", WHO), {}
    first = await pid_of(pool, host, plan)
    async with pool.worker(host, plan, timings=timings) as session:
        assert (await session.infer(encode({}))).outputs["pid"] == first
    assert timings["start_us"] < 10_000
    assert set(timings) == {"queue_us", "start_us"}


async def test_calls_of_one_version_take_turns_in_order(tmp_path, host, pools):
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", WHO)
    order: list[int] = []

    async def call(number: int) -> None:
        async with pool.worker(host, plan) as session:
            order.append(number)
            await session.infer(encode({"sleep": 0.02}))

    await asyncio.gather(*(call(number) for number in range(6)))
    assert order == list(range(6))
    assert pool.workers == 1


async def test_a_version_may_have_several_workers(tmp_path, host, pools):
    pool, plan = pool_of(pools, workers_per_key=2), plan_of(tmp_path / "m", WHO)
    pids = await asyncio.gather(*(pid_of(pool, host, plan, sleep=0.1) for _ in range(6)))
    assert len(set(pids)) == 2


async def test_the_worker_idle_longest_makes_room_for_another_version(tmp_path, host, pools):
    pool = pool_of(pools, max_workers=2)
    plans = [plan_of(tmp_path / name, WHO) for name in "abc"]
    pids = [await pid_of(pool, host, plan) for plan in plans]
    assert pool.workers == 2
    assert not alive(pids[0])
    assert alive(pids[1])


async def test_with_every_worker_in_use_a_call_waits_for_one_to_end(tmp_path, host, pools):
    pool = pool_of(pools, max_workers=1)
    a, b = plan_of(tmp_path / "a", WHO), plan_of(tmp_path / "b", WHO)
    pids = await asyncio.gather(*(pid_of(pool, host, plan, sleep=0.1) for plan in (a, b, a, b)))
    assert len(set(pids)) >= 2
    assert pool.workers <= 1


async def test_an_idle_worker_ends_after_its_time(tmp_path, host, pools):
    pool, plan = pool_of(pools, idle_seconds=0.2), plan_of(tmp_path / "m", WHO)
    pid = await pid_of(pool, host, plan)
    await until(lambda: not alive(pid))
    await until(lambda: pool.workers == 0)
    assert await pid_of(pool, host, plan) != pid


async def test_a_full_queue_is_busy_at_once(tmp_path, host, pools):
    pool, plan = pool_of(pools, most_waiting=2), plan_of(tmp_path / "m", WHO)
    calls = [asyncio.ensure_future(pid_of(pool, host, plan, sleep=0.3)) for _ in range(3)]
    await asyncio.sleep(0.05)
    with pytest.raises(Busy):
        await pid_of(pool, host, plan)
    await asyncio.gather(*calls)


async def test_who_gives_up_waiting_loses_nobody_his_turn(tmp_path, host, pools):
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", WHO)
    calls = [asyncio.ensure_future(pid_of(pool, host, plan, sleep=0.1)) for _ in range(4)]
    await asyncio.sleep(0.05)
    calls[1].cancel()
    calls[2].cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[0] == results[3]
    assert all(isinstance(result, asyncio.CancelledError) for result in results[1:3])


async def test_a_cancelled_call_leaves_a_worker_that_serves_the_next(tmp_path, host, pools):
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", WHO)
    pid = await pid_of(pool, host, plan)
    call = asyncio.ensure_future(pid_of(pool, host, plan, sleep=30))
    await asyncio.sleep(0.1)
    call.cancel()
    began = time.monotonic()
    assert await pid_of(pool, host, plan) == pid
    assert time.monotonic() - began < 1


async def test_a_worker_that_dies_is_replaced(tmp_path, host, pools):
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", WHO)
    pid = await pid_of(pool, host, plan)
    with pytest.raises(WorkerLost, match="status 5"):
        await pid_of(pool, host, plan, die=True)
    assert await pid_of(pool, host, plan) != pid


async def test_a_worker_killed_while_idle_is_replaced_unseen(tmp_path, host, pools):
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", WHO)
    pid = await pid_of(pool, host, plan)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: pool.workers == 0)
    assert await pid_of(pool, host, plan) != pid


async def test_workers_that_crash_again_and_again_are_started_ever_later(tmp_path, host, pools):
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", WHO)
    waits = []
    for _ in range(4):
        timings: dict[str, int] = {}
        with pytest.raises(WorkerLost):
            async with pool.worker(host, plan, timings=timings) as session:
                await session.infer(encode({"die": True}))
        waits.append(timings["start_us"])
    assert waits[-1] > 150_000


async def test_one_that_dies_three_times_while_loading_is_reported_and_set_aside(tmp_path, host, pools):
    count = tmp_path / "starts"
    source = f"import os\nopen({str(count)!r}, 'a').write('x')\nos.abort()\n"
    pool, plan = pool_of(pools, set_aside_seconds=0.5), plan_of(tmp_path / "m", source)
    with pytest.raises(WorkerLost, match=r"(?s)m:1 died 3 times while loading.*SIGABRT"):
        await pid_of(pool, host, plan)
    assert count.read_text() == "xxx"
    with pytest.raises(WorkerLost, match="not tried again for"):
        await pid_of(pool, host, plan)
    assert count.read_text() == "xxx"
    await asyncio.sleep(0.6)
    plan_of(tmp_path / "m", WHO)
    assert await pid_of(pool, host, plan) > 0


async def test_one_that_fails_to_load_is_not_tried_again_and_not_set_aside(tmp_path, host, pools):
    count = tmp_path / "starts"
    source = f"open({str(count)!r}, 'a').write('x')\ndef load():\n    raise ValueError('no')\n"
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", source)
    for starts in ("x", "xx"):
        with pytest.raises(ModelFailed, match="no"):
            await pid_of(pool, host, plan)
        assert count.read_text() == starts
    assert pool.workers == 0 or await until(lambda: pool.workers == 0) is None


async def test_a_start_that_is_cancelled_leaves_nothing(tmp_path, host, pools):
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", "import time\ntime.sleep(60)\n")
    call = asyncio.ensure_future(pid_of(pool, host, plan))
    await asyncio.sleep(0.5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: pool.workers == 0)
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("slots", [1, 2])
async def test_who_gives_up_a_load_that_others_wait_for_does_not_end_it(tmp_path, host, pools, slots):
    count = tmp_path / "starts"
    source = f"import time\nopen({str(count)!r}, 'a').write('x')\ntime.sleep(0.7)\n{textwrap.dedent(WHO)}"
    pool, plan = pool_of(pools, max_workers=1), plan_of(tmp_path / "m", source, concurrency=slots)
    hasty = asyncio.ensure_future(pid_of(pool, host, plan))
    await asyncio.sleep(0.05)
    patient = asyncio.ensure_future(pid_of(pool, host, plan))
    await until(count.exists)
    hasty.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hasty
    assert await patient == await pid_of(pool, host, plan)
    assert count.read_text() == "x"


async def test_closing_fails_who_runs_and_who_waits(tmp_path, host, pools):
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", WHO)
    calls = [asyncio.ensure_future(pid_of(pool, host, plan, sleep=30)) for _ in range(3)]
    await asyncio.sleep(1.0)
    await pool.close()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, WorkerLost) for result in results)
    with pytest.raises(WorkerLost, match="closed"):
        await pid_of(pool, host, plan)


async def test_a_worker_that_never_says_hello_is_given_up_when_the_time_to_load_is_over(tmp_path, pools):
    mute = tmp_path / "mute"
    mute.write_text("#!/bin/sh\nexec sleep 600\n")
    mute.chmod(0o700)
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", WHO, load_seconds=0.5)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="said nothing"):
        await pid_of(pool, local_host(tmp_path, python=mute), plan)
    assert time.monotonic() - began < 3


async def test_closing_in_the_middle_of_a_start_leaves_no_worker(tmp_path, host, pools):
    source = f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(1)\n"
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", source + "def load():\n    return dict\n")
    call = asyncio.ensure_future(pid_of(pool, host, plan))
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    await pool.close()
    assert not alive(int((tmp_path / "pid").read_text()))
    assert not list((tmp_path / "scratch").iterdir())
    with pytest.raises(WorkerLost, match="closed"):
        await call


async def test_who_gives_up_as_his_turn_comes_costs_nobody_his_worker(tmp_path, host, pools):
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", WHO)
    async with pool.worker(host, plan):
        waits = asyncio.ensure_future(pid_of(pool, host, plan))
        await asyncio.sleep(0)
        waits.cancel()  # the worker comes back before he has heard of it
    with pytest.raises(asyncio.CancelledError):
        await waits
    async with asyncio.timeout(5):
        assert await pid_of(pool, host, plan) > 0


async def test_prints_at_no_requests_time_go_to_who_has_the_worker(tmp_path, host, pools):
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", "print('loading')\n" + "def load():\n    return dict\n")
    got: list[bytes] = []
    async with pool.worker(host, plan, on_log=lambda _stream, _level, text: got.append(text)):
        pass
    assert b"".join(got) == b"loading\n"


COUNTER = """
import sys
said = lambda line: print(line, flush=True)
said("@!#READY#!@")
count = 0
for line in sys.stdin:
    line = line.rstrip("\\n")
    if line == "@!#EXIT#!@":
        break
    if line == "@!#STOP#!@":
        count += 1
        said("@!#START#!@"); said(str(count)); said("@!#STOP#!@")
"""


async def test_a_stateful_worker_belongs_to_one_owner(tmp_path, host, pools):
    import sys

    pool = pool_of(pools)
    (tmp_path / "counter.py").write_text(COUNTER)
    plan = WorkerPlan(
        key="counter",
        spec=VersionSpec(runner="command", command=Command(argv=(sys.executable, str(tmp_path / "counter.py")))),
        package=None,
    )

    async def count(owner: str) -> str:
        async with pool.worker(host, plan, owner=owner) as session:
            return (await session.infer(encode({"text": "x"}))).outputs["output"]

    assert [await count("a"), await count("a"), await count("b"), await count("a")] == ["1", "2", "1", "3"]
