"""Where a model that is placed on several servers runs: where fewest of its invocations are unfinished on record."""

import datetime as dt
import time
from pathlib import Path

import pytest

from mer.api import Mer
from mer.audit.bodies import Bodies, Subject
from mer.core.errors import ServerUnreachable
from mer.core.identifiers import uuid7
from mer.core.records import InvocationId, LeaseId, Outcome
from mer.dal.memory import MemoryStore
from mer.execution.choice import Choice
from mer.registry.resolve import Resolver
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


async def chosen(store: MemoryStore) -> set[str]:
    """Choose several times, without a run that would tell which servers are there, and return which ones came of it."""
    resolved = await Resolver(store, monotonic=time.monotonic).resolve("model")
    choice = Choice(store.access_log, monotonic=time.monotonic)
    return {(await choice.among("model", resolved.candidates)).server.name for _ in range(TRIES)}


async def test_the_server_with_fewer_unfinished_invocations_is_chosen(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store) as m:
        await place(m, tmp_path, "local", "gpu1")
        await start(store, "gpu1")
        assert await chosen(store) == {"local"}
        for _ in range(2):
            await start(store, "local")
        assert await chosen(store) == {"gpu1"}


async def test_what_has_finished_does_not_count(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store) as m:
        await place(m, tmp_path, "local", "gpu1")
        for _ in range(3):
            await finish(store, *await start(store, "local"))
        await start(store, "gpu1")
        assert await chosen(store) == {"local"}


async def test_invocations_of_other_models_do_not_count(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store) as m:
        await place(m, tmp_path, "local", "gpu1")
        for _ in range(3):
            await start(store, "local", model="another")
        await start(store, "gpu1")
        assert await chosen(store) == {"local"}


async def test_among_equals_none_is_left_out(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store) as m:
        await place(m, tmp_path, "gpu1", "gpu2", "local")
        await start(store, "local")
        assert await chosen(store) | await chosen(store) | await chosen(store) == {"gpu1", "gpu2"}


async def test_a_server_that_is_asked_for_is_taken_however_busy(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store) as m:
        await place(m, tmp_path, "local", "gpu1")
        for _ in range(3):
            await start(store, "gpu1")
        with pytest.raises(ServerUnreachable, match="gpu1"):
            await m.run("model", {}, on="gpu1")
