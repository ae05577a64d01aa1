"""A pool whose workers take several callers: slots, further workers while callers wait, min and max, worn workers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mer.core.errors import Busy, DeadlineExceeded
from mer.core.specs import Batch, Limits, Workers
from mer.meal.local import LocalHost
from mer.meal.pool import Pool
from mer.meal.session import Session
from mer_worker.tensors import encode
from tests.support.pools import TELLS_ITS_PID, pid_of, pool_of
from tests.support.workers import alive, local_host, plan_of, soon, until


@pytest.fixture
def host(tmp_path: Path) -> LocalHost:
    return local_host(tmp_path)


async def test_callers_share_a_worker_as_far_as_its_slots_go(
    tmp_path: Path, host: LocalHost, pools: list[Pool]
) -> None:
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", TELLS_ITS_PID, concurrency=4)
    together = most = 0

    async def call() -> int:
        nonlocal together, most
        async with pool.worker(host, plan) as session:
            together += 1
            most = max(most, together)
            answer: int = (await session.infer(encode({"sleep": 0.1}))).outputs["pid"]
            together -= 1
            return answer

    pids = await asyncio.gather(*(call() for _ in range(12)))
    assert len(set(pids)) == 1
    assert most == 4


async def test_further_workers_are_started_when_all_slots_are_taken(
    tmp_path: Path, host: LocalHost, pools: list[Pool]
) -> None:
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", TELLS_ITS_PID, concurrency=2, workers=Workers(max=3))
    assert len(set(await asyncio.gather(*(pid_of(pool, host, plan, sleep=0.2) for _ in range(2))))) == 1
    assert pool.workers == 1
    pids = await asyncio.gather(*(pid_of(pool, host, plan, sleep=0.5) for _ in range(12)))
    assert len(set(pids)) == 3
    assert pool.workers == 3


async def test_idle_workers_end_down_to_the_min(tmp_path: Path, host: LocalHost, pools: list[Pool]) -> None:
    pool = pool_of(pools, idle_seconds=0.2)
    plan = plan_of(tmp_path / "m", TELLS_ITS_PID, workers=Workers(min=1, max=3))
    pids = set(await asyncio.gather(*(pid_of(pool, host, plan, sleep=0.3) for _ in range(6))))
    assert len(pids) == 3
    await until(lambda: pool.workers == 1)
    await asyncio.sleep(0.5)
    assert pool.workers == 1
    assert sum(map(alive, pids)) == 1


async def test_the_min_is_started_with_the_first(tmp_path: Path, host: LocalHost, pools: list[Pool]) -> None:
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", TELLS_ITS_PID, workers=Workers(min=3, max=3))
    await pid_of(pool, host, plan)
    await until(lambda: pool.workers == 3)
    pids = await asyncio.gather(*(pid_of(pool, host, plan, sleep=0.5) for _ in range(3)))
    assert len(set(pids)) == 3


async def test_a_worker_is_replaced_after_its_number_of_calls(
    tmp_path: Path, host: LocalHost, pools: list[Pool]
) -> None:
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", TELLS_ITS_PID, limits=Limits(calls=3))
    pids = [await pid_of(pool, host, plan) for _ in range(7)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]
    await until(lambda: sum(map(alive, set(pids))) == 1)


async def test_it_ends_only_after_its_last_caller(tmp_path: Path, host: LocalHost, pools: list[Pool]) -> None:
    pool = pool_of(pools)
    plan = plan_of(tmp_path / "m", TELLS_ITS_PID, concurrency=3, limits=Limits(calls=3))
    pids = await asyncio.gather(*(pid_of(pool, host, plan, sleep=0.1 * n) for n in range(1, 7)))
    assert sorted(pids.count(pid) for pid in set(pids)) == [3, 3]


async def test_busy_names_the_numbers(tmp_path: Path, host: LocalHost, pools: list[Pool]) -> None:
    pool, plan = pool_of(pools, most_waiting=2), plan_of(tmp_path / "m", TELLS_ITS_PID, concurrency=2)
    await pid_of(pool, host, plan)
    calls = [asyncio.ensure_future(pid_of(pool, host, plan, sleep=0.5)) for _ in range(4)]
    await asyncio.sleep(0.1)
    with pytest.raises(
        Busy, match="2 calls wait for a worker, and no more than 2 may; 1 of 8 workers are there"
    ) as caught:
        await pid_of(pool, host, plan)
    assert caught.value.exit_code == 75
    assert caught.value.hint
    await asyncio.gather(*calls)


async def test_a_batching_worker_takes_two_batches_of_callers(
    tmp_path: Path, host: LocalHost, pools: list[Pool]
) -> None:
    source = """
        import os
        def load():
            return lambda batch: [{"pid": os.getpid(), "of": len(batch)} for inputs in batch]
    """
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", source, batch=Batch(max_size=4))
    await pid_of(pool, host, plan)
    sizes: list[int] = []

    async def call() -> None:
        async with pool.worker(host, plan) as session:
            sizes.append((await session.infer(encode({}))).outputs["of"])

    await asyncio.gather(*(call() for _ in range(8)))
    assert max(sizes) == 4


async def test_a_worker_that_is_given_up_is_replaced_while_others_still_run_on_it(
    tmp_path: Path, host: LocalHost, pools: list[Pool]
) -> None:
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", TELLS_ITS_PID, concurrency=2)
    pid = await pid_of(pool, host, plan)
    other = asyncio.ensure_future(pid_of(pool, host, plan, sleep=4.0))
    await asyncio.sleep(0.05)
    with pytest.raises(DeadlineExceeded, match="its worker was ended"):
        async with pool.worker(host, plan) as session:
            await session.infer(encode({"block": 60}), deadline=soon(0.1))
    assert await pid_of(pool, host, plan) != pid
    assert not other.done()
    assert await other == pid
    await until(lambda: not alive(pid))


async def test_the_newest_caller_hears_what_is_tied_to_no_request(
    tmp_path: Path, host: LocalHost, pools: list[Pool]
) -> None:
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", TELLS_ITS_PID, concurrency=2)

    heard: list[str] = []

    def say(session: Session, words: bytes) -> None:
        assert session.on_log is not None
        session.on_log("stderr", "", words)

    async with pool.worker(host, plan, on_log=lambda *_: heard.append("first")) as session:
        async with pool.worker(host, plan, on_log=lambda *_: heard.append("second")) as same:
            assert same is session
            say(session, b"two callers")
        say(session, b"one caller")
    say(session, b"none")
    assert heard == ["second", "first"]


async def test_a_worker_can_be_looked_at_while_every_slot_is_taken(
    tmp_path: Path, host: LocalHost, pools: list[Pool]
) -> None:
    pool, plan = pool_of(pools), plan_of(tmp_path / "m", TELLS_ITS_PID)
    assert pool.warm(host, plan) is None
    await pid_of(pool, host, plan)
    call = asyncio.ensure_future(pid_of(pool, host, plan, sleep=0.5))
    await asyncio.sleep(0.1)
    session = pool.warm(host, plan)
    assert session is not None
    assert "busy with request" in str(await session.pulse())
    await call
    assert str(await session.pulse()).startswith("idle")
