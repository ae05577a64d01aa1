"""Hosts that end, flood or answer nonsense where something else was agreed: each is told as what it is, and costs no memory."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import asyncssh
import pytest

from mer.core.errors import ProtocolViolation, ServerUnreachable, WorkerLost
from mer.meal.findings import Finding
from mer.meal.session import Session
from mer.meal.ssh import host as ssh_host
from mer.meal.ssh.examining import skew
from mer.meal.ssh.host import SshHost
from mer_worker import wire
from mer_worker.stage0 import FAIL, GO, NEED
from tests.support import sshd
from tests.support.far_words import speaking

Process = asyncssh.SSHServerProcess[bytes]


@pytest.fixture
def server() -> sshd.Sshd:
    return sshd.of_process_or_stand_in()


@pytest.mark.parametrize("mark", [NEED, GO, FAIL, FAIL + b"[" * 50_000])
async def test_one_that_ends_with_its_first_word_is_told_at_once(server: sshd.Sshd, mark: bytes) -> None:
    async def speak(process: Process) -> None:
        process.stdout.write(mark)
        process.exit(0)

    async with speaking(server, speak) as host:
        began = time.monotonic()
        with pytest.raises(ServerUnreachable):
            await host.probe()
        if mark is not GO:  # then a worker is said to be there, which has ended
            with pytest.raises(ServerUnreachable):
                await host.open(await host.prepare())
        assert time.monotonic() - began < ssh_host.START_SECONDS / 2


HELLO = wire.PREAMBLE + wire.frame(
    wire.Kind.HELLO, {"protocol": {"min": 1, "max": wire.VERSION}, "capabilities": [], "limits": {}, "runners": []}
)


@pytest.mark.parametrize("first", [GO, GO + HELLO], ids=["nothing", "a hello"])
@pytest.mark.parametrize("garbage", [b"\xff" * (1 << 20), b"\0" * (1 << 20)], ids=["ones", "zeros"])
async def test_one_that_goes_on_with_nonsense_is_given_up_and_holds_nobody_up(
    server: sshd.Sshd, first: bytes, garbage: bytes
) -> None:
    async def speak(process: Process) -> None:
        process.stdout.write(first + garbage)
        await process.stdout.drain()
        await process.stdin.read()
        process.exit(0)

    async with speaking(server, speak) as host:
        with pytest.raises((ProtocolViolation, WorkerLost)):
            await pinged(host)


async def pinged(host: SshHost) -> None:
    session = await Session.start(await host.open(await host.prepare()), seconds=10.0)
    try:
        await session.ping(seconds=10.0)
    finally:
        await session.close()


ANSWERS = [
    b"[" * 100_000,
    b"7",
    b"{}",
    b'{"done": 7}',
    b'{"done": {}}',
    b'{"failed": "' + b"x" * 100_000 + b'"}',
    json.dumps({"done": {"blobs": float("inf"), "size": 0, "trees": 0, "parts": 0}}).encode(),
]


@pytest.mark.parametrize("answer", ANSWERS, ids=[answer[:20].decode() for answer in ANSWERS])
async def test_an_answer_that_is_none_is_told_in_few_words(server: sshd.Sshd, answer: bytes) -> None:
    async def speak(process: Process) -> None:
        process.stdout.write(GO + answer + b"\n")
        process.exit(0)

    async with speaking(server, speak) as host:
        with pytest.raises(ServerUnreachable) as caught:
            await host.probe()
        assert len(caught.value.message) < 1000
        with pytest.raises(ServerUnreachable):
            await host.collect([], [], grace_seconds=0, plan=True)


FACTS: dict[str, Any] = {
    "python": "/usr/bin/python3",
    "version": "3.11.2",
    "cache": "/home/ada/.cache/mer-worker",
    "unwritable": None,
    "disk": {"free": 1 << 40, "total": 1 << 41},
    "memory": {"available": 1 << 30, "total": 1 << 31},
    "gpus": {"found": [{"index": "0", "name": "A", "free": 1, "total": 2}]},
    "took": {"cache": 1, "disk": 1, "memory": 1, "gpus": 1},
    "clock": 1,
}
HUGE = 10**400

ODD = [
    {"disk": {"free": HUGE, "total": HUGE}},
    {"memory": {"available": HUGE, "total": HUGE}},
    {"gpus": {"found": [{"index": "0", "name": "A", "free": HUGE, "total": HUGE}]}},
    {"took": {"cache": HUGE, "disk": HUGE, "memory": 1, "gpus": 1}},
    {"took": {"cache": float("inf"), "disk": 1, "memory": 1, "gpus": 1}},
    {"took": [1]},
    {"gpus": {"found": [7]}},
]


@pytest.mark.parametrize("odd", ODD, ids=map(str, range(len(ODD))))
async def test_facts_that_cannot_be_are_told_as_such_by_a_ping(server: sshd.Sshd, odd: dict[str, Any]) -> None:
    async def speak(process: Process) -> None:
        process.stdout.write(GO + json.dumps({"done": {**FACTS, **odd}}).encode() + b"\n")
        process.exit(0)

    found: list[Finding] = []
    async with speaking(server, speak) as host:
        await host.examine(found.append)
    assert isinstance(found[-1].error, ServerUnreachable)
    assert all(type(finding.microseconds) is int and finding.microseconds < 1 << 63 for finding in found)


@pytest.mark.parametrize("clock", [HUGE, -HUGE, None, "now", True])
def test_a_clock_that_shows_no_time_is_told_as_such(clock: object) -> None:
    with pytest.raises(ServerUnreachable, match="shows no time"):
        skew({"clock": clock}, 1.0, 2.0)


async def test_facts_in_many_words_are_told_in_few(server: sshd.Sshd) -> None:
    long = "x" * 1_000_000
    gpus = {"found": [{"index": long, "name": long, "free": None, "total": None}] * 10}

    async def speak(process: Process) -> None:
        facts = {**FACTS, "python": long, "version": long, "cache": long, "gpus": gpus}
        process.stdout.write(GO + json.dumps({"done": facts}).encode() + b"\n")
        process.exit(0)

    found: list[Finding] = []
    async with speaking(server, speak) as host:
        await host.examine(found.append)
    assert sum(len(finding.detail) for finding in found) < 20_000


async def test_a_full_disk_there_is_told_with_how_room_is_made(server: sshd.Sshd) -> None:
    async def speak(process: Process) -> None:
        said = {"step": "disk", "message": "/home/ada/.cache/mer-worker: No space left on device", "python": ""}
        process.stdout.write(FAIL + json.dumps(said).encode() + b"\n")
        process.exit(1)

    async with speaking(server, speak) as host:
        with pytest.raises(ServerUnreachable, match=r"disk: /home/ada/\.cache/mer-worker: No space") as caught:
            await host.open(await host.prepare())
        assert f"server gc {host.name}" in (caught.value.hint or "")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("mark", [GO, FAIL])
async def test_a_flood_in_the_place_of_an_answer_fills_no_memory(
    server: sshd.Sshd, mark: bytes, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_host, "MAX_ANSWER", 4 << 20)
    sent = 0

    async def speak(process: Process) -> None:
        nonlocal sent
        process.stdout.write(mark)
        while sent < 64 << 20:
            getattr(process, stream).write(bytes(1 << 20))
            sent += 1 << 20
            await getattr(process, stream).drain()

    async with speaking(server, speak) as host:
        await host.connect()
        tracemalloc.start()
        try:
            with pytest.raises(ServerUnreachable):
                await host.ask("probe", {}, seconds=1.5)
            assert tracemalloc.get_traced_memory()[1] < 48 << 20
        finally:
            tracemalloc.stop()
