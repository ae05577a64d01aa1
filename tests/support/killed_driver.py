"""A driver that is killed, by a real SIGKILL from itself, at one step of an invocation.

python -m tests.support.killed_driver STEP REFERENCE
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import mer
from mer.execution.audit import Records
from mer.execution.finishes import Finishes
from mer.execution.leases import LeaseKeeper
from mer.meal.pool import Pool


def killed(*_: object, **__: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


STEPS: dict[str, Callable[[], None]] = {
    "before started": lambda: setattr(Records, "start", killed),
    "before the worker": lambda: setattr(Pool, "worker", killed),
    "before finished": lambda: setattr(Finishes, "append", killed),
    "before the lease is given back": lambda: setattr(LeaseKeeper, "close", killed),
    "by the model": lambda: None,
}


async def main(step: str, reference: str) -> None:
    STEPS[step]()
    async with mer.open() as m:
        await m.run(reference, {})


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
