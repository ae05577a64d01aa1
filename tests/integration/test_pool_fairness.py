"""A pool under several versions at once: nobody waits for ever, nobody warm is ended for nothing, one bad start is one."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from mer.core.errors import WorkerLost
from mer.core.specs import Workers
from mer.meal.local import LocalHost
from mer.meal.plan import WorkerPlan
from mer.meal.pool import Pool
from tests.support.pools import TELLS_ITS_PID, pid_of, pool_of
from tests.support.workers import alive, local_host, plan_of, until


@pytest.fixture
def host(tmp_path: Path) -> LocalHost:
    return local_host(tmp_path)


async def test_callers_of_one_version_end_one_idle_worker_for_the_one_that_they_may_have(
    tmp_path: Path, host: LocalHost, pools: list[Pool]
) -> None:
    pool = pool_of(pools, max_workers=3)
    warm = [await pid_of(pool, host, plan_of(tmp_path / name, TELLS_ITS_PID)) for name in "abc"]
    plan = plan_of(tmp_path / "d", TELLS_ITS_PID)
    assert len(set(await asyncio.gather(*(pid_of(pool, host, plan) for _ in range(4))))) == 1
    assert [alive(pid) for pid in warm] == [False, True, True]


async def test_callers_who_share_a_worker_keep_it_from_nobody_for_ever(
    tmp_path: Path, host: LocalHost, pools: list[Pool]
) -> None:
    pool, shared = pool_of(pools, max_workers=1), plan_of(tmp_path / "shared", TELLS_ITS_PID, concurrency=2)
    other, over = plan_of(tmp_path / "other", TELLS_ITS_PID), asyncio.Event()

    async def again_and_again(first: float) -> None:
        await asyncio.sleep(first)
        while not over.is_set():
            await pid_of(pool, host, shared, sleep=0.1)

    await pid_of(pool, host, shared)
    callers = [asyncio.ensure_future(again_and_again(first)) for first in (0, 0.05)]
    try:
        await asyncio.sleep(0.1)
        async with asyncio.timeout(8):
            await pid_of(pool, host, other)
    finally:
        over.set()
        await asyncio.gather(*callers)


async def test_a_second_worker_that_cannot_be_started_leaves_the_first_one_to_its_callers(
    tmp_path: Path, host: LocalHost, pools: list[Pool]
) -> None:
    source = """
        import os, time
        def load():
            if os.path.exists(os.path.join(os.path.dirname(__file__), "full")):
                os._exit(7)
            def handle(inputs):
                time.sleep(inputs.get("sleep", 0))
                return {"pid": os.getpid()}
            return handle
    """
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", source, workers=Workers(max=2))
    pid = await pid_of(pool, host, plan)
    (tmp_path / "m" / "full").touch()
    first = asyncio.ensure_future(pid_of(pool, host, plan, sleep=1.5))
    await asyncio.sleep(0.05)
    assert await pid_of(pool, host, plan) == pid  # and its caller, too, to that one
    assert await first == pid
    assert await pid_of(pool, host, plan) == pid
    assert await asyncio.gather(*(pid_of(pool, host, plan, sleep=0.1) for _ in range(3))) == [pid] * 3
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not alive(pid))
    with pytest.raises(WorkerLost, match="not tried again for"):
        await until_lost(pool, host, plan)


async def test_one_whose_load_fails_leaves_its_caller_to_the_others_and_is_not_started_again_at_once(
    tmp_path: Path, host: LocalHost, pools: list[Pool]
) -> None:
    source = """
        import os, time
        here = os.path.dirname(__file__)
        def load():
            with open(os.path.join(here, "starts"), "a") as starts:
                starts.write("x")
            if os.path.exists(os.path.join(here, "full")):
                raise MemoryError("no room on the device")
            def handle(inputs):
                time.sleep(inputs.get("sleep", 0))
                return {"pid": os.getpid()}
            return handle
    """
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", source, workers=Workers(max=2))
    pid = await pid_of(pool, host, plan)
    (tmp_path / "m" / "full").touch()
    pids = await asyncio.gather(*(pid_of(pool, host, plan, sleep=0.3) for _ in range(4)))
    assert set(pids) == {pid}
    assert (tmp_path / "m" / "starts").read_text() == "xx"


async def until_lost(pool: Pool, host: LocalHost, plan: WorkerPlan) -> None:
    for _ in range(20):
        try:
            await pid_of(pool, host, plan)
        except WorkerLost as error:
            if "not tried again" in error.message:
                raise
        await asyncio.sleep(0.05)


async def test_one_whose_worker_is_given_up_for_a_caller_who_has_gone_waits_for_no_other(
    tmp_path: Path, host: LocalHost, pools: list[Pool]
) -> None:
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", TELLS_ITS_PID, concurrency=2)
    pid = await pid_of(pool, host, plan)
    gone = asyncio.ensure_future(pid_of(pool, host, plan, block=60))
    other = asyncio.ensure_future(pid_of(pool, host, plan, block=8))
    third = asyncio.ensure_future(pid_of(pool, host, plan, block=8))
    await asyncio.sleep(0.1)
    gone.cancel()
    async with asyncio.timeout(6):
        assert await pid_of(pool, host, plan) != pid
    assert not other.done()
    other.cancel()
    third.cancel()
