"""Pools of a test, which its fixture `pools` closes, and the process that answers in one."""

from __future__ import annotations

from typing import Any

from mer.meal.host import Host
from mer.meal.plan import WorkerPlan
from mer.meal.pool import Pool
from mer_worker.tensors import encode


def pool_of(pools: list[Pool], **given: Any) -> Pool:
    pools.append(Pool(**given))
    return pools[-1]


async def pid_of(pool: Pool, host: Host, plan: WorkerPlan, **inputs: Any) -> int:
    async with pool.worker(host, plan) as session:
        answer: int = (await session.infer(encode(inputs))).outputs["pid"]
        return answer
