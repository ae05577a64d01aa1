"""A device of a far host: the workers of one driver at a time, and who waits hears for whom."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from pathlib import Path

import pytest

from mer.core.errors import Busy, InputInvalid, ProtocolViolation
from mer.meal.plan import WorkerPlan
from mer.meal.session import Session
from mer.meal.starting import start_once
from mer_worker import turns
from mer_worker.alone import remove_stale
from mer_worker.failures import Failure
from mer_worker.turns import Turn
from tests.support.caching import CachingHost, worker_of
from tests.support.workers import local_host, plan_of, soon, until

TOLD = "def load(device=None):\n    return lambda inputs: {'device': device or 'none'}\n"


@pytest.fixture
def host(tmp_path: Path) -> CachingHost:
    return CachingHost(tmp_path)


def plan(folder: Path, driver: str = "a" * 32, *, device: str = "cuda:0", load_seconds: float = 30.0) -> WorkerPlan:
    made = plan_of(folder / "model", TOLD, load_seconds=load_seconds)
    holder = {"driver": driver, "actor": f"ada-{driver[0]}", "host": "laptop", "pid": 7}
    return dataclasses.replace(made, device=device, holder=holder)


async def loaded(host: CachingHost, given: WorkerPlan, said: list[bytes] | None = None) -> Session:
    return await start_once(
        host,
        given,
        deadline=soon(given.load_seconds),
        on_log=None if said is None else lambda _stream, _level, text: said.append(text),
    )


async def test_another_driver_waits_hears_for_whom_and_has_it_then(host, tmp_path):
    first = await loaded(host, plan(tmp_path))
    said: list[bytes] = []
    waiting = asyncio.create_task(loaded(host, plan(tmp_path, "b" * 32), said))
    await until(lambda: bool(said))
    assert b"waiting for cuda:0, which ada-a on laptop (pid 7 since " in said[0]
    assert not waiting.done()
    await first.close()
    async with asyncio.timeout(20):
        second = await waiting
    assert (await second.infer_values({}))["device"] == "cuda:0"
    assert len(said) == 1
    await second.close()


async def test_who_waits_in_vain_is_told_who_has_it(host, tmp_path):
    first = await loaded(host, plan(tmp_path))
    with pytest.raises(Busy, match=r"cuda:0 was not free within \d+ s: ada-a on laptop \(pid 7"):
        await loaded(host, plan(tmp_path, "b" * 32, load_seconds=2.0))
    await first.close()


async def test_a_load_that_waits_can_be_cancelled(host, tmp_path):
    first = await loaded(host, plan(tmp_path))
    said: list[bytes] = []
    waiting = asyncio.create_task(loaded(host, plan(tmp_path, "b" * 32), said))
    await until(lambda: bool(said))
    waiting.cancel()
    async with asyncio.timeout(20):
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await first.close()


async def test_workers_of_one_driver_share_a_device_until_the_last_has_ended(host, tmp_path):
    first, second = await loaded(host, plan(tmp_path)), await loaded(host, plan(tmp_path))
    await first.close()
    with pytest.raises(Busy, match="ada-a"):
        await loaded(host, plan(tmp_path, "b" * 32, load_seconds=2.0))
    await second.close()
    third = await loaded(host, plan(tmp_path, "b" * 32))
    await third.close()


async def test_a_killed_worker_leaves_its_turn(host, tmp_path):
    first = await loaded(host, plan(tmp_path))
    first._stream.kill()
    second = await loaded(host, plan(tmp_path, "b" * 32))
    await asyncio.gather(first.close(), second.close())


async def test_two_devices_are_two_turns(host, tmp_path):
    first = await loaded(host, plan(tmp_path))
    second = await loaded(host, plan(tmp_path, "b" * 32, device="cuda:1"))
    await asyncio.gather(first.close(), second.close())


def test_two_machines_that_share_a_home_have_a_device_of_that_name_each(tmp_path, monkeypatch):
    def take(driver):
        Turn(str(tmp_path), "cuda:0").take({"driver": driver}, 0.0, lambda _: None)

    monkeypatch.setattr(turns, "_HELD", [])
    tmp_path.chmod(0o700)
    take("a")
    with pytest.raises(Failure, match="was not free"):
        take("b")
    monkeypatch.setattr(os, "uname", lambda: ("Linux", "another.machine", "6", "1", "x86_64"))
    take("b")
    for descriptor in turns._HELD:
        os.close(descriptor)


def test_a_scratch_folder_of_another_machine_is_left_alone(tmp_path):
    for name in ("aa.here", "bb.here", "cc.there"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (0, 0))
    remove_stale(str(tmp_path), "aa.here")
    assert sorted(os.listdir(tmp_path)) == ["aa.here", "cc.there"]


@pytest.mark.parametrize("device", ["../../x", "/dev/null", "ü\n%s"])
async def test_a_device_is_a_name_and_no_path(host, tmp_path, device):
    session = await loaded(host, plan(tmp_path, device=device))
    await session.close()
    assert len(list((host.far / "locks").iterdir())) == 2  # whose turn it is, and who looks
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"device": 1},
        {"device": "."},
        {"device": ".."},
        {"device": ""},
        {"device": "d" * 300},
        {"device": "d", "holder": 1},
        {"device": "d", "wait_ms": "1"},
    ],
)
async def test_what_names_no_device_is_refused(host, fields):
    async with worker_of(host) as session:
        with pytest.raises((InputInvalid, ProtocolViolation)):
            await session.load({"runner": "python", **fields}, deadline=soon(20))


async def test_on_the_drivers_own_machine_nobody_waits_and_the_handler_is_told(tmp_path):
    host = local_host(tmp_path)
    first = await start_once(host, plan(tmp_path), deadline=soon(30))
    second = await start_once(host, plan(tmp_path, "b" * 32), deadline=soon(30))
    assert (await second.infer_values({}))["device"] == "cuda:0"
    await asyncio.gather(first.close(), second.close())
