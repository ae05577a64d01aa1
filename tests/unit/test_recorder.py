"""The recorder: what is recorded stands once, whatever stands beside it."""

import asyncio
import datetime as dt

from mer.audit.recorder import Recorder
from mer.core.errors import ChangesNotAllowed
from mer.core.records import AccessFilter, RecordKind
from mer.dal.memory import MemoryStore
from tests.support.registry import ADA


async def test_a_refused_change_stands_once_beside_a_record_that_the_database_refuses() -> None:
    store = MemoryStore()
    recorder = Recorder(store.access_log, clock=lambda: dt.datetime.now(dt.UTC))
    await recorder.bodies()
    results = await asyncio.gather(
        recorder.append("no JSON"),
        recorder.append_refused_change(actor=ADA, action="model.register", error=ChangesNotAllowed()),
        recorder.append("no JSON either"),
        return_exceptions=True,
    )
    await recorder.drain()
    assert [isinstance(result, Exception) for result in results] == [True, False, True]
    assert len((await store.access_log.page(AccessFilter(kind=RecordKind.REFUSED))).items) == 1
