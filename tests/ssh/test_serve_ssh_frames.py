"""`mer serve-ssh` as a host: another MER runs what it is lent, in frames, and both keep their own log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer.api import Mer
from mer.core.errors import DeadlineExceeded, InputInvalid, ModelFailed, NotFound, WorkerLost
from mer.core.records import ServerKind
from mer.core.specs import TensorSpec, VersionSpec
from mer_worker.credit import WINDOW_PARTS
from mer_worker.decoder import Decoder
from mer_worker.wire import PREAMBLE, Frame, Kind, frame, pack
from tests.support import sshd
from tests.support.installation import DIGITS
from tests.support.lender import Lender, of_process
from tests.support.registry import ADA
from tests.support.running import running

TEXT = TensorSpec(name="text", dtype="string", shape=())


@pytest.fixture(scope="module")
def lender() -> Lender:
    return of_process()


@pytest.fixture
async def borrower(lender: Lender, tmp_path: Path) -> AsyncIterator[Mer]:
    """A MER whose operator reaches the lender by alice's key, and by nothing else."""
    config = tmp_path / "ssh_config"
    config.write_text(
        f"Host gpu1\n HostName {sshd.HOST}\n Port {lender.server.port}\n User {lender.server.user}\n"
        f" IdentityFile {lender.keys['alice'].path}\n IdentitiesOnly yes\n"
    )
    async with running(tmp_path, ssh_config=config) as m:
        (tmp_path / "state" / "known_hosts").write_text(lender.server.known_hosts_line)
        parameters = {"address": "gpu1", "via": "serve-ssh"}
        await m.servers.register(ADA, "gpu1", kind=ServerKind.SSH, parameters=parameters)
        yield m


async def digests(lender: Lender, name: str) -> dict[str, str]:
    if name not in _DIGESTS:
        version = (await lender.ask("bob", f"model show {name} --json")).document["versions"][0]
        _DIGESTS[name] = {what: version[what] for what in ("package", "weights") if version[what]}
    return dict(_DIGESTS[name])


_DIGESTS: dict[str, dict[str, str]] = {}


async def borrow(m: Mer, lender: Lender, name: str = "shout", **spec: Any) -> None:
    """Register what the lender has under that name, by its digests, and place it there."""
    options: Any = await digests(lender, name)
    await m.register_model(name, spec=VersionSpec(runner="lent", options=options, **({"inputs": (TEXT,)} | spec)))
    await m.placements.place(ADA, name, "gpu1")


async def ended(lender: Lender, invocations: int) -> dict[str, Any]:
    """Return the lender's last record once so many invocations have ended."""
    for _ in range(60):
        records = await asyncio.to_thread(lender.records)
        if len([record for record in records if record["kind"] == "finished"]) >= invocations:
            return records[-1]
        await asyncio.sleep(0.5)
    raise AssertionError(records[-3:])


def finished(lender: Lender) -> int:
    return len([record for record in lender.records() if record["kind"] == "finished"])


async def test_what_is_lent_runs_there_and_stands_in_both_logs(borrower: Mer, lender: Lender) -> None:
    await borrow(borrower, lender)
    printed: list[bytes] = []
    before = finished(lender)
    result = await borrower.run("shout", {"text": "hé"}, on_log=lambda _stream, _level, text: printed.append(text))
    assert result.outputs == {"text": "HÉ", "bytes": "hé".encode(), "facts": {"length": 2}}
    assert (result.server, b"".join(printed)) == ("gpu1", "reading hé\n".encode())
    here = json.loads((await borrower.log.list(limit=1)).items[0].body)
    assert (here["kind"], here["outcome"], here["server"], here["address"]) == ("finished", "succeeded", "gpu1", "gpu1")
    assert here["package"] == (await digests(lender, "shout"))["package"]
    there = await ended(lender, before + 1)
    assert (there["actor"]["user"], there["actor"]["via"], there["outcome"]) == ("alice", "ssh", "succeeded")
    assert there["reference"] == "shout:1"
    assert there["inputs"] == here["inputs"]


async def test_a_version_registered_on_both_sides_is_the_same_by_its_digests(borrower: Mer, lender: Lender) -> None:
    await borrower.register_weights("digits", DIGITS / "digits.safetensors")
    registered = await borrower.register_model("digits", DIGITS / "package", weights="digits")
    await borrower.placements.place(ADA, "digits", "gpu1")
    assert registered.version.package == (await digests(lender, "digits"))["package"]
    result = await borrower.run("digits", {"image": np.load(DIGITS / "three.npy")})
    assert int(result.outputs["digit"]) == 3


async def test_what_is_not_lent_is_refused_as_what_does_not_exist(borrower: Mer, lender: Lender) -> None:
    messages = []
    for name, options in (("secret", await digests(lender, "secret")), ("nothing", {"package": "ab" * 32})):
        options |= {"weights": "cd" * 32}  # `secret` has the package of `shout`
        await borrower.register_model(name, spec=VersionSpec(runner="lent", options=dict(options), inputs=(TEXT,)))
        await borrower.placements.place(ADA, name, "gpu1")
        with pytest.raises(NotFound) as caught:
            await borrower.run(name, {"text": "x"})
        messages.append(caught.value.message)
    assert messages[0] == messages[1]
    refused = (await asyncio.to_thread(lender.records))[-1]
    assert (refused["kind"], refused["actor"]["user"]) == ("refused", "alice")


async def test_answers_and_inputs_in_parts_go_through_beyond_a_window(borrower: Mer, lender: Lender) -> None:
    await borrow(borrower, lender)
    count = WINDOW_PARTS + 50
    async with asyncio.timeout(60):
        numbers = [part["number"] async for part in borrower.stream("shout", {"text": f"count {count}"})]
        assert numbers == list(range(count))
        words = ({"text": str(number)} for number in range(count))
        doubled = [part["text"] async for part in borrower.stream("shout", {"text": "double"}, parts=words)]
        assert doubled == [2 * str(number) for number in range(count)]


async def test_a_model_that_fails_there_fails_here(borrower: Mer, lender: Lender) -> None:
    await borrow(borrower, lender)
    with pytest.raises(ModelFailed, match="ValueError: no such word") as caught:
        await borrower.run("shout", {"text": "fail"})
    assert caught.value.traceback is None
    await borrow(borrower, lender, "digits", inputs=())
    with pytest.raises(InputInvalid):
        await borrower.run("digits", {"wrong": 1})


async def test_a_worker_that_is_lost_there_is_lost_here_and_the_next_run_has_another(
    borrower: Mer, lender: Lender
) -> None:
    await borrow(borrower, lender)
    with pytest.raises(WorkerLost):
        await borrower.run("shout", {"text": "die"})
    assert (await borrower.run("shout", {"text": "again"})).outputs["text"] == "AGAIN"


async def test_a_deadline_ends_the_run_on_both_sides(borrower: Mer, lender: Lender) -> None:
    await borrow(borrower, lender)
    assert (await borrower.run("shout", {"text": "warm"})).outputs["text"] == "WARM"
    before = finished(lender)
    with pytest.raises(DeadlineExceeded):
        await borrower.run("shout", {"text": "sleep 50"}, timeout=1.0)
    there = await ended(lender, before + 1)
    assert there["outcome"] in ("timed_out", "cancelled")
    assert (await borrower.run("shout", {"text": "again"})).outputs["text"] == "AGAIN"


async def test_a_caller_who_goes_away_cancels_the_run_there(borrower: Mer, lender: Lender) -> None:
    await borrow(borrower, lender)
    assert (await borrower.run("shout", {"text": "warm"})).outputs["text"] == "WARM"
    before = finished(lender)
    calling = asyncio.ensure_future(borrower.run("shout", {"text": "sleep 50"}))
    await asyncio.sleep(0.5)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert (await ended(lender, before + 1))["outcome"] == "cancelled"


async def test_a_connection_that_is_cut_cancels_what_runs_there(lender: Lender) -> None:
    options = await digests(lender, "shout")
    before = finished(lender)
    async with lender.connected("alice") as connection:
        process = await connection.create_process("frames", encoding=None)
        body = [pack(Kind.LOAD, json.dumps(options).encode(), request=1)]
        process.stdin.write(PREAMBLE + hello() + b"".join(body))
        got = await frames(process, 2)
        assert [one.kind for one in got] == [Kind.HELLO, Kind.RESULT]
        from mer_worker.tensors import encode

        process.stdin.write(b"".join(map(bytes, encode({"text": "sleep 50"}).message(Kind.INFER, 2))))
        await asyncio.sleep(1.5)
        connection.abort()
    assert (await ended(lender, before + 1))["outcome"] == "cancelled"
    await lender.left_alone()


def hello() -> bytes:
    return frame(
        Kind.HELLO, {"protocol": {"min": 1, "max": 1}, "capabilities": [], "limits": {"head": 1 << 20, "body": 1 << 20}}
    )


async def frames(process: Any, count: int) -> list[Frame]:
    decoder, got = Decoder(), list[Frame]()
    async with asyncio.timeout(30):
        while len(got) < count and (data := await process.stdout.read(65536)):
            got += decoder.feed(data)
    return got


async def test_frames_that_ask_for_more_are_refused_and_nonsense_ends_the_conversation(lender: Lender) -> None:
    asked = [
        frame(Kind.HAVE, {"digests": ["ab" * 32]}, request=1),
        frame(Kind.PUT, {"digest": "ab" * 32, "size": 1, "offset": 0}, request=2, body=b"x"),
        pack(Kind.SEAL, b'{"tensors":[]}', request=3),
        pack(Kind.INFER, b'{"tensors":[]}', request=4, segments=0),
        frame(Kind.LOAD, {"runner": "python", "folder": "/etc", "options": {}}, request=5),
        frame(Kind.LOAD, {"package": "../../x"}, request=6),
        frame(Kind.LOAD, {"package": {"a": 1}, "weights": 7}, request=7),
        pack(99, b"", request=8),
        pack(Kind.CANCEL, request=9),
        pack(Kind.PING, request=10),
    ]
    async with lender.connected("alice") as connection:
        process = await connection.create_process("frames", encoding=None)
        process.stdin.write(PREAMBLE + hello())
        answers = await frames(process, 1)
        for message in asked:
            process.stdin.write(message)
            if message[0] != Kind.CANCEL:
                answers += await frames_again(process, 1)
        kinds = [(one.kind, one.fields().get("code")) for one in answers[1:]]
        unknown, lent = (Kind.ERROR, "unknown-kind"), (Kind.ERROR, "not-lent")
        assert kinds == [
            unknown,
            unknown,
            unknown,
            (Kind.ERROR, "not-loaded"),
            lent,
            lent,
            lent,
            unknown,
            (Kind.PONG, None),
        ]
        process.stdin.write(b"\x00" * 64)
        [last] = await frames_again(process, 1)
        assert (last.kind, last.request, last.fields()["code"]) == (Kind.ERROR, 0, "bad-frame")
        done = await process.wait(timeout=30)
    assert done.exit_status == 0


async def frames_again(process: Any, count: int) -> list[Frame]:
    decoder, got = Decoder(preamble=False), list[Frame]()
    async with asyncio.timeout(30):
        while len(got) < count and (data := await process.stdout.read(65536)):
            got += decoder.feed(data)
    return got
