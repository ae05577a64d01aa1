"""The group writer: callers share commits, and each learns how its own record fared."""

import asyncio
import datetime as dt
import itertools
from collections.abc import Sequence

import pytest

from mer.audit import writer as writing
from mer.audit.bodies import Bodies, Subject
from mer.audit.writer import MAX_GROUP, GroupWriter
from mer.core.chain import Head
from mer.core.errors import DatabaseLocked, DatabaseUnreachable, MerError
from mer.core.records import InvocationId, LeaseId
from mer.dal.memory import MemoryStore
from tests.support.registry import ADA

NUMBERS = itertools.count()


async def body(store: MemoryStore) -> str:
    return Bodies(chain=await store.access_log.chain()).started(
        at=dt.datetime.now(dt.UTC),
        actor=ADA,
        lease=LeaseId("lease"),
        invocation=InvocationId(f"invocation-{next(NUMBERS)}"),
        subject=Subject(reference="model", model="model", server="local"),
    )


class Watched:
    """The store's own log, with the sizes of the groups that reach it."""

    def __init__(self, store: MemoryStore, *, slow: float = 0.0) -> None:
        self._log = store.access_log
        self._slow = slow
        self.groups: list[int] = []

    async def append(self, bodies: Sequence[str]) -> tuple[Head, ...]:
        self.groups.append(len(bodies))
        await asyncio.sleep(self._slow)
        return await self._log.append(bodies)


def over(watched: Watched) -> GroupWriter:
    return GroupWriter(watched)  # type: ignore[arg-type]  # append is all that a writer uses


async def test_what_waits_during_one_commit_is_the_next_group() -> None:
    store = MemoryStore()
    watched = Watched(store, slow=0.01)
    writer = over(watched)
    bodies = [await body(store) for _ in range(9)]
    heads = await asyncio.gather(*(writer.append(b) for b in bodies))
    assert watched.groups in ([9], [1, 8])
    assert [head.seq for head in heads] == list(range(1, 10))


async def test_a_group_is_bounded() -> None:
    store = MemoryStore()
    watched = Watched(store)
    writer = over(watched)
    await asyncio.gather(*[writer.append(await body(store)) for _ in range(MAX_GROUP + 1)])
    assert max(watched.groups) <= MAX_GROUP
    assert (await store.access_log.head()).seq == MAX_GROUP + 1


async def test_one_bad_record_fails_alone() -> None:
    store = MemoryStore()
    writer = over(Watched(store, slow=0.01))
    good, bad, other = await body(store), "no JSON", await body(store)
    results = await asyncio.gather(*(writer.append(b) for b in (good, bad, other)), return_exceptions=True)
    assert [isinstance(result, Head) for result in results] == [True, False, True]
    assert isinstance(results[1], Exception)


async def test_a_caller_that_gives_up_does_not_take_its_record_back() -> None:
    store = MemoryStore()
    writer = over(Watched(store, slow=0.02))
    task = asyncio.create_task(writer.append(await body(store)))
    await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await writer.close()
    assert (await store.access_log.head()).seq == 1


async def test_closing_waits_for_what_is_being_written() -> None:
    store = MemoryStore()
    writer = over(Watched(store, slow=0.02))
    tasks = [asyncio.create_task(writer.append(await body(store))) for _ in range(3)]
    await asyncio.sleep(0)
    await writer.close()
    assert (await store.access_log.head()).seq == 3
    await asyncio.gather(*tasks)


async def test_a_queue_that_only_grows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "MAX_WAITING", 2)
    store = MemoryStore()
    writer = over(Watched(store, slow=0.05))
    bodies = [await body(store) for _ in range(4)]
    results = await asyncio.gather(*(writer.append(b) for b in bodies), return_exceptions=True)
    refused = [result for result in results if isinstance(result, MerError)]
    assert refused
    assert all(isinstance(error, DatabaseUnreachable) for error in refused)


@pytest.mark.parametrize("error", [DatabaseUnreachable, DatabaseLocked])
async def test_a_database_that_is_gone_or_locked_fails_the_whole_group_at_once(error: type[MerError]) -> None:
    class Gone:
        tries = 0

        async def append(self, bodies: Sequence[str]) -> tuple[Head, ...]:
            self.tries += 1
            raise error

    gone = Gone()
    writer = GroupWriter(gone)  # type: ignore[arg-type]  # append is all that a writer uses
    results = await asyncio.gather(*(writer.append("{}") for _ in range(50)), return_exceptions=True)
    assert all(isinstance(result, error) for result in results)
    assert gone.tries <= 2
