"""The lending end of a conversation in frames, over pipes of this process."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from mer.core.actor import Guest
from mer.faces.serve_ssh.conversation import Conversation
from mer.faces.serve_ssh.pipes import Output
from mer_worker.wire import Decoder, Frame, Kind
from tests.support.running import running

HELLO = Frame(Kind.HELLO, head=b'{"protocol":{"min":1,"max":1}}')


async def test_a_guest_that_pinged_and_falls_silent_is_taken_to_be_gone(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    async with running(tmp_path) as m:
        output = await Output.open(theirs)
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
        output = await Output.open(theirs)
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
        output = await Output.open(theirs)
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
