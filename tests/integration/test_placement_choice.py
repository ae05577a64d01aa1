"""Where a model that is placed on several servers runs: where fewest of its invocations are unfinished on record.

A server of kind ssh is chosen as any other; that this version cannot run there shows which one was chosen.
"""

import contextlib
import datetime as dt
from pathlib import Path

import pytest

from mer.api import Mer
from mer.audit.bodies import Bodies, Subject
from mer.core.errors import ConfigurationError
from mer.core.identifiers import uuid7
from mer.core.records import AccessFilter, InvocationId, LeaseId, Outcome
from mer.dal.memory import MemoryStore
from tests.support.registry import ADA
from tests.support.running import register, running

ECHO = """
    def load():
        return lambda tensors: tensors
"""
TRIES = 8
"""Enough that a choice by chance would show: it would pass once in 2**8 times."""


async def start(store: MemoryStore, server: str, *, model: str = "model") -> tuple[InvocationId, Subject]:
    """Put the start of another driver's invocation on record."""
    invocation, subject = InvocationId(uuid7()), Subject(reference=model, model=model, version=1, server=server)
    bodies = Bodies(chain=await store.access_log.chain())
    now = dt.datetime.now(dt.UTC)
    lease = LeaseId(uuid7())
    await store.access_log.append(
        [bodies.started(at=now, actor=ADA, lease=lease, invocation=invocation, subject=subject)]
    )
    return invocation, subject


async def finish(store: MemoryStore, invocation: InvocationId, subject: Subject) -> None:
    bodies = Bodies(chain=await store.access_log.chain())
    now, lease = dt.datetime.now(dt.UTC), LeaseId(uuid7())
    outcome = Outcome.SUCCEEDED
    await store.access_log.append(
        [bodies.finished(at=now, actor=ADA, lease=lease, invocation=invocation, subject=subject, outcome=outcome)]
    )


async def place(m: Mer, folder: Path, *servers: str) -> None:
    await register(m, folder, ECHO)
    for server in servers:
        if server != "local":
            await m.servers.register(ADA, server, parameters={"address": server})
        await m.placements.place(ADA, "model", server)


async def chosen(m: Mer) -> set[str]:
    """Run several times, and return the servers that were chosen, by what is on record."""
    before = (await m.log.checkpoint()).seq
    for _ in range(TRIES):
        with contextlib.suppress(ConfigurationError):  # a server of kind ssh was chosen
            await m.run("model", {"x": 1})
    page = await m.log.list(AccessFilter(model="model"))
    return {str(record.columns["server"]) for record in page.items if record.seq > before}


async def test_the_server_with_fewer_unfinished_invocations_is_chosen(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store) as m:
        await place(m, tmp_path, "local", "gpu1")
        await start(store, "gpu1")
        assert await chosen(m) == {"local"}
        for _ in range(2):
            await start(store, "local")
        assert await chosen(m) == {"gpu1"}


async def test_what_has_finished_does_not_count(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store) as m:
        await place(m, tmp_path, "local", "gpu1")
        for _ in range(3):
            await finish(store, *await start(store, "local"))
        await start(store, "gpu1")
        assert await chosen(m) == {"local"}


async def test_invocations_of_other_models_do_not_count(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store) as m:
        await place(m, tmp_path, "local", "gpu1")
        for _ in range(3):
            await start(store, "local", model="another")
        await start(store, "gpu1")
        assert await chosen(m) == {"local"}


async def test_among_equals_none_is_left_out(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store) as m:
        await place(m, tmp_path, "gpu1", "gpu2", "local")
        await start(store, "local")
        assert await chosen(m) | await chosen(m) | await chosen(m) == {"gpu1", "gpu2"}


async def test_a_server_that_is_asked_for_is_taken_however_busy(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store) as m:
        await place(m, tmp_path, "local", "gpu1")
        for _ in range(3):
            await start(store, "gpu1")
        with pytest.raises(ConfigurationError, match="gpu1"):
            await m.run("model", {}, on="gpu1")
