"""Content on a far host over a real sshd: pushed once, gone on with after a cut, shared by two drivers, freed again."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from mer.api import Mer
from mer.core.errors import Busy, DeadlineExceeded
from mer.core.progress import CURRENT
from mer.core.records import ServerKind
from mer.meal import pushing
from mer.meal.plan import WeightFile, WorkerPlan
from mer.meal.session import Session
from mer.meal.ssh.host import SshHost
from mer.meal.starting import start, start_once
from tests.support import compiled, sshd
from tests.support.dropping import dropping
from tests.support.registry import ADA
from tests.support.running import running
from tests.support.typing_in import Terminal, environ_of
from tests.support.workers import plan_of, soon

MIB = 1 << 20

TOTAL = """
import numpy

def load(weights):
    return lambda inputs: {"y": numpy.int64(sum(int(w.sum(dtype="int64")) for w in weights.values()))}
"""


@pytest.fixture
def server(tmp_path: Path) -> sshd.Sshd:
    """A server whose far sessions have a cache that nothing was pushed to."""
    if not sshd.available():
        pytest.skip("no sshd here (on Debian: apt-get install openssh-server)")
    (tmp_path / "cache").mkdir(mode=0o700)
    compiled.put_into(tmp_path / "cache" / "mer-worker")
    return sshd.Sshd(tmp_path / "sshd", environment={"XDG_CACHE_HOME": str(tmp_path / "cache")})


@contextlib.asynccontextmanager
async def hosts(server: sshd.Sshd, count: int = 1, **target: object) -> AsyncIterator[list[SshHost]]:
    """Give hosts over connections of their own, as of several drivers."""
    made = [sshd.host(server, **target) for _ in range(count)]
    try:
        yield made
    finally:
        for host in made:
            await host.aclose()


@pytest.fixture
async def started(server: sshd.Sshd) -> AsyncIterator[sshd.Sshd]:
    await asyncio.to_thread(server.start)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.stop)


def tensors(folder: Path, count: int, size: int) -> tuple[tuple[WeightFile, ...], int]:
    """Return files of so many bytes, and what all of them add up to."""
    made, total = [], 0
    for number in range(count):
        content = np.frombuffer(os.urandom(size), dtype="uint8")
        total += int(content.sum(dtype="int64"))
        content.tofile(folder / f"tensor{number}")
        made.append(WeightFile(name=f"t{number}", dtype="uint8", shape=(size,), path=folder / f"tensor{number}"))
    return tuple(made), total


def plan(folder: Path, weights: tuple[WeightFile, ...]) -> WorkerPlan:
    return plan_of(folder / "model", TOTAL, weights=weights, arrays="numpy")


def cached(folder: Path, name: str = "blobs") -> list[Path]:
    """Return the files of the far cache."""
    place = folder / "cache" / "mer-worker" / name
    return sorted(path for path in place.rglob("*") if path.is_file())


async def answer(session: Session) -> int:
    return int((await session.infer_values({}))["y"])


async def test_content_is_pushed_once_and_only_what_is_missing(started, tmp_path):
    weights, total = tensors(tmp_path, 3, 2 * MIB)
    seen: list[int] = []
    token = CURRENT.set(lambda _what, _done, total: seen.append(total))
    try:
        async with hosts(started) as [host]:
            session = await start(host, plan(tmp_path, weights))
            assert await answer(session) == total
            await session.close()
            pushed = max(seen)
            assert 6 * MIB < pushed < 7 * MIB
            seen.clear()
            session = await start(host, plan(tmp_path, weights))
            assert await answer(session) == total
            await session.close()
            assert seen == []
            more, further = tensors(tmp_path / "model", 1, MIB)
            session = await start(host, plan(tmp_path, (*weights, dataclasses.replace(more[0], name="more"))))
            assert await answer(session) == total + further
            await session.close()
            assert MIB <= max(seen) < 3 * MIB
    finally:
        CURRENT.reset(token)
    assert cached(tmp_path, "incoming") == []


async def test_a_push_that_is_cut_twice_goes_on_where_it_was(started, tmp_path):
    weights, total = tensors(tmp_path, 1, 10 * MIB)
    sizes: list[int] = []
    token = CURRENT.set(lambda _what, done, _total: sizes.append(done))
    try:
        async with dropping(started.port, 5 * MIB) as port:
            operator = sshd.operator(started, port=port)
            async with hosts(started, port=port, operator=operator) as [host]:
                session = await start(host, plan(tmp_path, weights))
                assert await answer(session) == total
                await session.close()
                assert host._connection.made == 3
    finally:
        CURRENT.reset(token)
    assert cached(tmp_path, "incoming") == []


async def test_two_drivers_push_and_load_the_same_at_once(started, tmp_path):
    weights, total = tensors(tmp_path, 4, 4 * MIB)
    async with hosts(started, 2) as made:
        sessions = await asyncio.gather(*(start(host, plan(tmp_path, weights)) for host in made))
        assert [await answer(session) for session in sessions] == [total, total]
        await asyncio.gather(*(session.close() for session in sessions))
    assert len(cached(tmp_path)) == 4 + 2  # and the handler, and the MANIFEST
    assert cached(tmp_path, "incoming") == []


async def test_several_sessions_carry_where_answers_take_long(started, tmp_path, monkeypatch):
    monkeypatch.setattr(pushing, "SESSION_ROUND_TRIP", 1e-9)  # any round trip is long
    monkeypatch.setattr(pushing, "SESSION_BYTES", MIB)
    weights, total = tensors(tmp_path, 12, MIB)
    async with hosts(started) as [host]:
        opened = []
        prepare = host.prepare

        async def counted():
            opened.append(1)
            return await prepare()

        monkeypatch.setattr(host, "prepare", counted)
        session = await start(host, plan(tmp_path, weights))
        assert await answer(session) == total
        await session.close()
    assert len(opened) == pushing.MOST_SESSIONS
    assert cached(tmp_path, "incoming") == []


async def test_a_host_that_takes_nothing_any_more_ends_the_push(started, tmp_path, monkeypatch):
    import signal

    monkeypatch.setattr(pushing, "STALL_SECONDS", 1.0)
    weights, _ = tensors(tmp_path, 1, 64 * MIB)
    stopped: list[int] = []

    def stop(_what: str, done: int, total: int) -> None:
        if total and done > 4 * MIB and not stopped:
            stopped.extend(started.connections())
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)

    token = CURRENT.set(stop)
    try:
        async with hosts(started, keepalive_seconds=0.5) as [host]:
            try:
                with pytest.raises(DeadlineExceeded, match=r"took nothing of what was pushed for 1 s"):
                    await start_once(host, plan(tmp_path, weights), deadline=soon(60))
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
    finally:
        CURRENT.reset(token)


async def test_pushing_does_not_count_against_the_load(started, tmp_path, monkeypatch):
    weights, total = tensors(tmp_path, 1, MIB)
    async with hosts(started) as [host]:
        stage, began = host.stage, time.monotonic()
        await (await start(host, plan(tmp_path, weights))).close()
        enough = 2 * (time.monotonic() - began)  # on this machine, as busy as it is

        async def slow(*given, **named):
            await asyncio.sleep(enough + 0.5)
            return await stage(*given, **named)

        monkeypatch.setattr(host, "stage", slow)
        session = await start(host, dataclasses.replace(plan(tmp_path, weights), load_seconds=enough))
        assert await answer(session) == total
        await session.close()


async def test_two_drivers_take_turns_at_a_device(started, tmp_path):
    def turn(driver: str) -> WorkerPlan:
        made = plan_of(tmp_path / "model", load_seconds=4.0)
        return dataclasses.replace(
            made, device="cuda:0", holder={"driver": driver, "actor": "ada", "host": "here", "pid": 1}
        )

    async with hosts(started, 2) as [one, other]:
        first = await start(one, turn("one"))
        with pytest.raises(Busy, match="ada on here"):
            await start(other, turn("other"))
        await first.close()
        second = await start(other, turn("other"))
        await second.close()


# --- through a whole Mer


@contextlib.asynccontextmanager
async def console(server: sshd.Sshd, folder: Path) -> AsyncIterator[Terminal]:
    """Give a terminal over a Mer that has the server as `gpu1`."""
    config = folder / "ssh_config"
    (folder / "known").write_text(server.known_hosts_line)
    config.write_text(
        f"Host gpu1\n  HostName {sshd.HOST}\n  Port {server.port}\n  IdentityFile {server.key}\n"
        f"Host *\n  IdentityAgent none\n  UserKnownHostsFile {folder}/known\n  GlobalKnownHostsFile /dev/null\n"
    )
    config.chmod(0o600)
    async with running(folder, ssh_config=str(config)) as m:
        made = await m.servers.register(ADA, "gpu1", kind=ServerKind.SSH, parameters={"address": "gpu1"})
        shared(m, made)
        yield Terminal(m, {**environ_of(folder), "ALLOW_MODEL_SERVER_RUNTIME_CHANGES": "1", "NO_COLOR": "1"})


def shared(m: Mer, server: object) -> None:
    """Let the far cache lie below /tmp."""
    m._ping._hosts.of(server)._shared_cache = True  # type: ignore[attr-defined, arg-type]


async def test_a_hundred_megabytes_of_weights_from_registering_to_freeing(started, tmp_path):
    content = {f"t{number}": np.frombuffer(os.urandom(25_000_000), dtype="uint8") for number in range(4)}
    total = sum(int(tensor.sum(dtype="int64")) for tensor in content.values())
    np.savez(tmp_path / "big.npz", **content)
    (tmp_path / "summing").mkdir()
    (tmp_path / "summing" / "summing.py").write_text(TOTAL)
    async with console(started, tmp_path) as terminal:
        for line in (
            f"-a weights register big {tmp_path}/big.npz",
            f"-a model register summing {tmp_path}/summing --entry summing:load --weights big",
            "-a model place summing gpu1",
        ):
            typed = await terminal.type(line)
            assert typed.code == 0, typed.err
        typed = await terminal.type("run summing --json")
        assert json.loads(typed.out)["outputs"]["y"]["value"] == total, typed.err
        assert sum(path.stat().st_size for path in cached(tmp_path)) > 100_000_000

        freed = json.loads((await terminal.type("server gc gpu1 --plan --grace 0 --json")).out)
        assert freed["blobs"] == 0
        assert (await terminal.type("-a model unplace summing gpu1")).code == 0
        typed = await terminal.type("server gc gpu1 --plan --grace 0")
        assert "would remove 0 files" in typed.out  # a warm worker has it still
    (tmp_path / "other").mkdir()
    async with console(started, tmp_path / "other") as terminal:
        typed = await terminal.type("server gc gpu1 --yes --grace 0")
        assert "removed 8 files, 1 package, 100" in typed.out, typed
    assert cached(tmp_path) == []


async def test_room_is_not_freed_without_leave(started, tmp_path):
    async with console(started, tmp_path) as terminal:
        terminal.mer._changes._allowed = False
        assert (await terminal.type("server gc gpu1 --yes")).code == 77
        assert (await terminal.type("server gc gpu1 --plan")).code == 0
        assert (await terminal.type("server gc local --plan")).code == 78
        assert (await terminal.type("server gc nowhere --plan")).code == 66
