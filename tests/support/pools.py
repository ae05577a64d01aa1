"""Pools of a test, which its fixture `pools` closes, and the process that answers in one."""

from __future__ import annotations

from typing import Any

from mer.meal.host import Host
from mer.meal.plan import WorkerPlan
from mer.meal.pool import Pool
from mer_worker.tensors import encode

TELLS_ITS_PID = """
    import os, threading, time
    def load():
        def handle(inputs):
            if inputs.get("block"):
                threading.Event().wait(inputs["block"])
            end = time.monotonic() + inputs.get("sleep", 0)
            while time.monotonic() < end:
                time.sleep(0.005)
            return {"pid": os.getpid()}
        return handle
"""
"""A handler that tells its process, after a sleep that can be interrupted or one that cannot."""


def pool_of(pools: list[Pool], **given: Any) -> Pool:
    pools.append(Pool(**given))
    return pools[-1]


async def pid_of(pool: Pool, host: Host, plan: WorkerPlan, **inputs: Any) -> int:
    async with pool.worker(host, plan) as session:
        answer: int = (await session.infer(encode(inputs))).outputs["pid"]
        return answer
