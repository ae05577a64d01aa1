"""The lending end of a conversation in frames, over pipes of this process."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mer.core.actor import Guest
from mer.faces.serve_ssh import pipes
from mer.faces.serve_ssh.conversation import Conversation
from mer.faces.serve_ssh.pipes import Output
from mer_worker.decoder import Decoder
from mer_worker.tensors import encode
from mer_worker.wire import PREAMBLE, Frame, Kind, frame, pack
from tests.support.documents import ROOT
from tests.support.running import running

HELLO = Frame(Kind.HELLO, head=b'{"protocol":{"min":1,"max":1}}')


async def test_a_guest_that_pinged_and_falls_silent_is_taken_to_be_gone(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    async with running(tmp_path) as m:
        output = Output(theirs)
        talk = Conversation(m, Guest(name="alice"), output, silence_seconds=0.3)
        talk.begin()
        talk.take([HELLO, Frame(Kind.PING, request=7)])
        async with asyncio.timeout(10):
            await talk.over
        await talk.aclose()
        await output.aclose()
    with os.fdopen(ours, "rb") as said:
        kinds = [one.kind for one in Decoder().feed(said.read())]
    assert kinds == [Kind.HELLO, Kind.PONG]


async def test_one_that_never_pings_may_be_silent(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    async with running(tmp_path) as m:
        output = Output(theirs)
        talk = Conversation(m, Guest(name="alice"), output, silence_seconds=0.05)
        talk.begin()
        talk.take([HELLO])
        await asyncio.sleep(0.3)
        assert not talk.over.done()
        await talk.aclose()
        await output.aclose()
    os.close(ours)


async def test_a_request_that_is_cancelled_with_its_coming_is_answered_once(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    async with running(tmp_path) as m:
        output = Output(theirs)
        talk = Conversation(m, Guest(name="alice"), output)
        talk.begin()
        talk.take([HELLO])
        talk._reference = "nothing:1"  # as loaded
        talk.take([Frame(Kind.INFER, request=2, head=b'{"tensors":[]}'), Frame(Kind.CANCEL, request=2)])
        talk.take([Frame(Kind.CANCEL, request=4), Frame(Kind.INFER, request=4, head=b'{"tensors":[]}')])
        await talk.aclose()
        await output.aclose()
    with os.fdopen(ours, "rb") as said:
        answers = Decoder().feed(said.read())[1:]
    assert [(one.kind, one.request, one.fields()["kind"]) for one in answers] == [
        (Kind.ERROR, 2, "cancelled"),
        (Kind.ERROR, 4, "cancelled"),
    ]


async def test_a_guest_who_asks_without_end_and_reads_nothing_fills_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipes, "MOST_WAITING", 1000)
    ours, theirs = os.pipe()
    async with running(tmp_path) as m:
        output = Output(theirs)
        talk = Conversation(m, Guest(name="alice"), output)
        talk.begin()
        talk.take([HELLO])
        asked = 0
        while not talk.over.done():
            talk.take([Frame(Kind.HAVE, request=asked), Frame(Kind.PING, request=asked)])
            asked += 1
            assert asked < 10_000
        assert asked > 1000
        await talk.aclose()
        await output.aclose()
    os.close(ours)


def test_stdin_and_stdout_may_be_one_socket(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    variables = {"SSH_ORIGINAL_COMMAND": "frames", "MER_STATE_FOLDER": "", "MER_HOME": str(tmp_path)}
    (tmp_path / ".env").write_text(f"MER_STATE_FOLDER={tmp_path / 'state'}\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.memory_console", "serve-ssh", "--actor", "alice"],
        stdin=theirs,
        stdout=theirs,
        cwd=ROOT,
        env={**os.environ, **variables},
    )
    theirs.close()
    ours.settimeout(60)
    decoder = Decoder()

    def next_frame() -> Frame:
        while True:
            if found := decoder.feed(ours.recv(65536)):
                [only] = found
                return only

    ours.sendall(PREAMBLE + frame(Kind.HELLO, {"protocol": {"min": 1, "max": 1}}))
    assert next_frame().kind == Kind.HELLO
    ours.sendall(pack(Kind.PING, request=5))
    assert (next_frame().kind, process.poll()) == (Kind.PONG, None)
    ours.sendall(frame(Kind.LOAD, {"package": "ab" * 32}, request=1))
    assert next_frame().fields()["code"] == "not-lent"
    ours.sendall(b"".join(map(bytes, encode({"text": "x"}).message(Kind.INFER, 2))))
    assert next_frame().fields()["code"] == "not-loaded"
    ours.shutdown(socket.SHUT_WR)
    assert ours.recv(1) == b""
    assert process.wait(timeout=60) == 0
    ours.close()


async def test_a_guest_who_reads_slowly_gets_all_of_it_in_its_order() -> None:
    ours, theirs = os.pipe()
    output = Output(theirs)
    pieces = [bytes([number]) * 300_000 for number in range(40)]
    for piece in pieces:
        output.say(piece[:7], b"", piece[7:])
    waiting = asyncio.create_task(output.room())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    with os.fdopen(ours, "rb") as said:
        reading = asyncio.create_task(asyncio.to_thread(said.read))
        await waiting
        await output.aclose()
        assert await reading == b"".join(pieces)


async def test_what_is_said_to_nobody_is_dropped() -> None:
    ours, theirs = os.pipe()
    output = Output(theirs)
    output.say(bytes(1 << 20))
    os.close(ours)
    output.say(bytes(1 << 20))
    async with asyncio.timeout(10):
        await output.room()
        await output.aclose()
