"""What is on record of a run when the database, the operator or another driver comes between its start and its end."""

import asyncio
import contextlib
import datetime as dt
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mer.api import Mer
from mer.audit.recorder import Recorder
from mer.core.chain import Head
from mer.core.errors import Busy, DatabaseLocked, DatabaseUnreachable
from mer.core.identifiers import uuid7
from mer.core.records import InvocationId, RecordKind
from mer.dal.memory import MemoryStore
from mer.execution import finishes
from mer.execution.leases import DEAD_AFTER_SECONDS, LeaseKeeper
from mer.execution.process import this_process
from tests.support.registry import ADA
from tests.support.running import log_kinds, register, running

WAITS = """
    import time
    from pathlib import Path

    def load(go):
        def handle(tensors):
            print("running", flush=True)
            while not Path(go).exists():
                time.sleep(0.01)
            return {"answer": 42}
        return handle
"""

ANSWERS = """
    def load():
        return lambda tensors: {"answer": 42}
"""

Append = Callable[[Sequence[str]], Awaitable[tuple[Head, ...]]]


class Clock:
    """The database's clock, which a test can put forward."""

    def __init__(self) -> None:
        self.ahead = dt.timedelta()

    def __call__(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC) + self.ahead


def elsewhere(store: MemoryStore) -> LeaseKeeper:
    """The leases of a driver on another machine, which can see no process of this one."""
    there = msgspec.structs.replace(this_process(), host="elsewhere", boot_id="another")
    recorder = Recorder(store.access_log, clock=lambda: dt.datetime.now(dt.UTC))
    return LeaseKeeper(store, recorder, actor=ADA, identity=lambda: there)


def kinds_of(bodies: Sequence[str]) -> list[str]:
    return [json.loads(body)["kind"] for body in bodies]


def intercept(store: MemoryStore, kind: RecordKind, meet: Callable[[Append, Sequence[str]], Any]) -> Callable[[], None]:
    """Let `meet` stand between the driver and the database for records of a kind; return what takes it away again."""
    append = store.access_log.append

    async def intercepted(bodies: Sequence[str]) -> tuple[Head, ...]:
        if kind in kinds_of(bodies):
            return tuple(await meet(append, bodies))
        return await append(bodies)

    store.access_log.append = intercepted  # type: ignore[method-assign] # a database that misbehaves
    return lambda: setattr(store.access_log, "append", append)


async def outcomes(store: MemoryStore) -> list[str]:
    records = [record async for some in store.access_log.scan() for record in some]
    told = (record.columns for record in records if record.columns["kind"] != "change")
    return [" ".join(filter(None, (str(each["kind"]), str(each["outcome"] or "")))) for each in told]


@contextlib.asynccontextmanager
async def in_the_model(m: Mer, folder: Path) -> AsyncIterator[tuple[asyncio.Task[Any], Path]]:
    """Give a run whose model has its input and waits for a file."""
    go, ready = folder / "go", asyncio.Event()
    await register(m, folder, WAITS, options={"go": str(go)})
    task = asyncio.create_task(m.run("model", {}, on_log=lambda *_: ready.set()))
    await asyncio.wait_for(ready.wait(), 30)
    yield task, go


async def test_a_finish_after_others_gave_the_run_up_is_recorded_as_late(tmp_path: Path) -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    async with running(tmp_path, store) as m, in_the_model(m, tmp_path) as (task, go):
        clock.ahead = dt.timedelta(seconds=DEAD_AFTER_SECONDS + 1)
        [lost] = await elsewhere(store).sweep()
        go.touch()
        result = await task
        assert (result.invocation, result.recorded) == (lost.invocation, True)
        assert (await m.log.verify()).sound
    assert await outcomes(store) == ["started", "finished lost", "late succeeded"]


async def test_a_lease_that_was_freed_is_taken_again_before_it_covers_another_run(tmp_path: Path) -> None:
    store = MemoryStore()
    now = dt.datetime.now(dt.UTC)
    leases = LeaseKeeper(store, Recorder(store.access_log, clock=lambda: now), actor=ADA)
    lease = await leases.cover(InvocationId(uuid7()))
    await store.leases.release(lease)
    now += dt.timedelta(hours=1)  # the machine slept
    assert await leases.cover(InvocationId(uuid7())) == lease
    assert [held.id for held in await store.leases.all()] == [lease]
    await leases.close()


async def test_dead_leases_that_cannot_be_freed_keep_nobody_from_running(tmp_path: Path) -> None:
    store = MemoryStore()

    async def unreachable() -> Any:
        raise DatabaseUnreachable

    store.leases.all = unreachable  # type: ignore[method-assign] # a database that misbehaves
    async with running(tmp_path, store) as m:
        await register(m, tmp_path, ANSWERS)
        assert (await m.run("model", {})).outputs == {"answer": 42}
    assert await outcomes(store) == ["started", "finished succeeded"]


async def test_a_second_cancellation_does_not_lose_the_finish(tmp_path: Path) -> None:
    store, reached = MemoryStore(), asyncio.Event()

    async def slowly(append: Append, bodies: Sequence[str]) -> Any:
        reached.set()
        await asyncio.sleep(0.1)
        return await append(bodies)

    async with running(tmp_path, store) as m, in_the_model(m, tmp_path) as (task, _):
        intercept(store, RecordKind.FINISHED, slowly)
        task.cancel()
        await asyncio.wait_for(reached.wait(), 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await outcomes(store) == ["started", "finished cancelled"]
    assert await store.leases.all() == ()


async def test_what_still_runs_when_mer_is_closed_ends_on_record(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store) as m, in_the_model(m, tmp_path) as (task, _):
        pass
    with pytest.raises(Exception, match="shut down"):
        await task
    assert await outcomes(store) == ["started", "finished lost"]
    assert await store.leases.all() == ()


async def test_a_start_whose_acknowledgement_was_lost_is_recorded_as_lost(tmp_path: Path) -> None:
    store = MemoryStore()

    async def unanswered(append: Append, bodies: Sequence[str]) -> Any:
        await append(bodies)
        raise DatabaseUnreachable

    async with running(tmp_path, store) as m:
        await register(m, tmp_path, ANSWERS)
        mend = intercept(store, RecordKind.STARTED, unanswered)
        with pytest.raises(DatabaseUnreachable):
            await m.run("model", {})
        mend()
        await m.run("model", {})
    assert await outcomes(store) == ["started", "started", "finished succeeded", "finished lost"]
    assert await store.leases.all() == ()


async def test_a_start_that_never_arrived_leaves_no_record_and_no_lease(tmp_path: Path) -> None:
    store = MemoryStore()

    async def gone(append: Append, bodies: Sequence[str]) -> Any:
        raise DatabaseUnreachable

    async with running(tmp_path, store) as m:
        await register(m, tmp_path, ANSWERS)
        intercept(store, RecordKind.STARTED, gone)
        with pytest.raises(DatabaseUnreachable):
            await m.run("model", {})
    assert await outcomes(store) == []
    assert await store.leases.all() == ()


async def test_a_run_cancelled_while_its_start_is_written_is_not_left_open(tmp_path: Path) -> None:
    store, reached = MemoryStore(), asyncio.Event()

    async def slowly(append: Append, bodies: Sequence[str]) -> Any:
        reached.set()
        await asyncio.sleep(0.1)
        return await append(bodies)

    async with running(tmp_path, store) as m:
        await register(m, tmp_path, ANSWERS)
        intercept(store, RecordKind.STARTED, slowly)
        task = asyncio.create_task(m.run("model", {}))
        await asyncio.wait_for(reached.wait(), 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await outcomes(store) == ["started", "finished lost"]
    assert await store.leases.all() == ()


@pytest.mark.parametrize("error", [DatabaseUnreachable, DatabaseLocked])
async def test_a_finish_that_the_database_does_not_take_waits_for_the_next_start(
    tmp_path: Path, error: type[Exception]
) -> None:
    store = MemoryStore()

    async def refuse(append: Append, bodies: Sequence[str]) -> Any:
        raise error

    async with running(tmp_path, store) as m:
        await register(m, tmp_path, ANSWERS)
        mend = intercept(store, RecordKind.FINISHED, refuse)
        result = await m.run("model", {})
        assert (result.outputs, result.recorded) == ({"answer": 42}, False)
    assert len(await store.leases.all()) == 1
    mend()
    async with running(tmp_path, store) as m:
        assert await outcomes(store) == ["started", "finished succeeded"]
        assert (await m.log.verify()).sound
    assert list((tmp_path / "state/journal").rglob("*.json")) == []


async def test_a_finish_whose_acknowledgement_was_lost_stands_once(tmp_path: Path) -> None:
    store = MemoryStore()

    async def unanswered(append: Append, bodies: Sequence[str]) -> Any:
        await append(bodies)
        raise DatabaseUnreachable

    async with running(tmp_path, store) as m:
        await register(m, tmp_path, ANSWERS)
        mend = intercept(store, RecordKind.FINISHED, unanswered)
        assert not (await m.run("model", {})).recorded
    mend()
    async with running(tmp_path, store):
        assert await outcomes(store) == ["started", "finished succeeded"]


async def test_a_finish_from_the_journal_that_was_given_up_meanwhile_is_late(tmp_path: Path) -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)

    async def gone(append: Append, bodies: Sequence[str]) -> Any:
        raise DatabaseUnreachable

    async with running(tmp_path, store) as m:
        await register(m, tmp_path, ANSWERS)
        mend = intercept(store, RecordKind.FINISHED, gone)
        await m.run("model", {})
    mend()
    clock.ahead = dt.timedelta(seconds=DEAD_AFTER_SECONDS + 1)
    await elsewhere(store).sweep()
    async with running(tmp_path, store) as m:
        assert await outcomes(store) == ["started", "finished lost", "late succeeded"]
        assert (await m.log.verify()).sound


async def test_a_result_is_given_even_if_neither_database_nor_journal_can_be_written(tmp_path: Path) -> None:
    store = MemoryStore()

    async def gone(append: Append, bodies: Sequence[str]) -> Any:
        raise DatabaseUnreachable

    async with running(tmp_path, store) as m:
        await register(m, tmp_path, ANSWERS)
        (tmp_path / "state/journal").write_text("in its place")
        intercept(store, RecordKind.FINISHED, gone)
        result = await m.run("model", {})
        assert (result.outputs, result.recorded) == ({"answer": 42}, False)
    [lease] = await store.leases.all()
    assert len(await store.access_log.unfinished(lease.id)) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: body[:-20],
        lambda body: "[]",
        lambda body: "\udcff",
        lambda body: body.replace('"finished"', '"change"'),
        lambda body: json.dumps({**json.loads(body), "chain": uuid7()}, separators=(",", ":"), sort_keys=True),
        lambda body: json.dumps(json.loads(body)),
    ],
)
async def test_a_damaged_journal_neither_reaches_the_log_nor_stops_a_start(
    tmp_path: Path, damage: Callable[[str], str]
) -> None:
    store = MemoryStore()

    async def gone(append: Append, bodies: Sequence[str]) -> Any:
        raise DatabaseUnreachable

    async with running(tmp_path, store) as m:
        await register(m, tmp_path, ANSWERS)
        mend = intercept(store, RecordKind.FINISHED, gone)
        await m.run("model", {})
    mend()
    [waiting] = (tmp_path / "state/journal").rglob("*.json")
    waiting.write_bytes(damage(waiting.read_text()).encode("utf-8", "surrogateescape"))
    async with running(tmp_path, store) as m:
        assert await log_kinds(m) == ["change", "started"]
    assert waiting.exists()


async def test_a_driver_takes_up_its_journal_itself_once_the_log_is_back(tmp_path: Path) -> None:
    store = MemoryStore()

    async def gone(append: Append, bodies: Sequence[str]) -> tuple[Head, ...]:
        raise DatabaseUnreachable

    async with running(tmp_path, store) as m:
        await register(m, tmp_path, ANSWERS)
        back = intercept(store, RecordKind.FINISHED, gone)
        assert not (await m.run("model", {})).recorded
        back()
        assert (await m.run("model", {})).recorded
        assert sorted(await outcomes(store)) == ["finished succeeded"] * 2 + ["started"] * 2
    assert list((tmp_path / "state/journal").glob("*/*")) == []


async def test_what_a_driver_could_not_take_up_it_takes_up_at_the_next_finish(tmp_path: Path) -> None:
    store = MemoryStore()
    answers = iter([False, True, False])  # gone; back for the next run's own finish; gone again for what waits

    async def flaps(append: Append, bodies: Sequence[str]) -> tuple[Head, ...]:
        if next(answers, True):
            return await append(bodies)
        raise DatabaseUnreachable

    async with running(tmp_path, store) as m:
        await register(m, tmp_path, ANSWERS)
        intercept(store, RecordKind.FINISHED, flaps)
        assert [(await m.run("model", {})).recorded for _ in range(3)] == [False, True, True]
        assert sorted(await outcomes(store)) == ["finished succeeded"] * 3 + ["started"] * 3
    assert list((tmp_path / "state/journal").glob("*/*")) == []


@pytest.mark.parametrize("of", ["its own finish", "one that waited"])
async def test_a_result_waits_for_no_record_that_the_database_takes_and_never_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    monkeypatch.setattr(finishes, "FINISH_SECONDS", 0.2)
    store, answered = MemoryStore(), asyncio.Event()
    answers = iter(["gone", "hangs"] if of == "its own finish" else ["gone", "there", "hangs"])

    async def hangs(append: Append, bodies: Sequence[str]) -> tuple[Head, ...]:
        match next(answers, "there"):
            case "there":
                return await append(bodies)
            case "gone":
                raise DatabaseUnreachable
        await answered.wait()
        return await append(bodies)

    async with running(tmp_path, store) as m:
        await register(m, tmp_path, ANSWERS)
        intercept(store, RecordKind.FINISHED, hangs)
        await m.run("model", {})
        async with asyncio.timeout(20):
            assert (await m.run("model", {})).outputs == {"answer": 42}
        answered.set()


async def test_a_call_that_finds_no_room_is_refused_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    async with running(tmp_path, store, max_workers=1) as m, in_the_model(m, tmp_path) as (task, go):
        monkeypatch.setattr(m._executor._pool, "_most_waiting", 1)
        waiting = asyncio.create_task(m.run("model", {}))
        await asyncio.sleep(0.2)
        with pytest.raises(Busy):
            await m.run("model", {})
        go.touch()
        await asyncio.gather(task, waiting)
    assert sorted(await outcomes(store)) == ["finished succeeded"] * 2 + ["refused refused"] + ["started"] * 2
