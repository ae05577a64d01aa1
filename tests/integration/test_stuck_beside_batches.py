"""What is sent beside the batches of a model, and does not let itself be stopped: nobody who waits behind it waits for ever."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mer.core.errors import DeadlineExceeded, WorkerLost
from mer.core.specs import Batch
from mer.meal import seals
from mer_worker.tensors import encode
from tests.support.workers import session_with

SOURCE = """
    import time

    class Model:
        def seal(self, inputs):
            while True:
                try:
                    time.sleep(60)
                except KeyboardInterrupt:
                    pass

        def __call__(self, batch):
            time.sleep(0.3)
            return batch

    def load():
        return Model()
"""


async def test_its_worker_is_ended_though_requests_with_smaller_numbers_wait(tmp_path: Path) -> None:
    async with session_with(tmp_path, SOURCE, batch=Batch(max_size=4)) as session:
        deadline = asyncio.get_running_loop().time() + 0.6
        running = asyncio.create_task(session.infer(encode({"x": 1})))
        await asyncio.sleep(0.1)
        queued = asyncio.create_task(
            session.infer(encode({"x": 2}))
        )  # goes with the next batch, behind what follows here
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded):
            await seals.seal(session, encode({"x": 3}), deadline=deadline)
        assert (await running).outputs == {"x": 1}
        with pytest.raises(WorkerLost, match="did not let itself be stopped"):
            await asyncio.wait_for(queued, 20)
