"""What a worker keeps for later is bounded by number and by bytes, those in shared memory too."""

from __future__ import annotations

import os

import pytest

from mer_worker import backlog, conversation
from mer_worker.backlog import Backlog
from mer_worker.channel import Channel
from mer_worker.control import Ending, Pulse
from mer_worker.conversation import Conversation
from mer_worker.decoder import Decoder
from mer_worker.interrupts import Interrupts
from mer_worker.logs import Logs
from mer_worker.wire import Frame, Kind, WireError

SIZE = 1000


def shared(kind: int, request: int) -> Frame:
    """Return a frame whose only segment lies elsewhere."""
    found = Frame(kind, request=request)
    found.shared = [memoryview(bytes(SIZE))]
    return found


def test_a_backlog_counts_what_lies_in_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "MOST_WAITING_BYTES", 3 * SIZE)
    kept = Backlog()
    for request in range(1, 4):
        assert not kept.full
        kept.put(shared(Kind.INFER, request))
    assert kept.full
    assert not kept.overflowing
    kept.get()
    assert not kept.full
    for request in range(4, 14):
        kept.put(shared(Kind.PART, request))
    assert kept.overflowing


class Given:
    """Frames in place of a stream."""

    clear = False

    def __init__(self, frames: list[Frame]) -> None:
        self.frames = frames

    def wait(self) -> None:
        pass

    def next(self) -> Frame | None:
        return self.frames.pop(0) if self.frames else None


def talking(frames: list[Frame], sink: int) -> Conversation:
    channel, interrupts = Channel(sink), Interrupts()
    made = Conversation(channel, interrupts, Pulse(), Logs(channel, interrupts), Ending("", ""))
    made.source = Given(frames)  # type: ignore[assignment]
    return made


def test_requests_that_come_while_one_waits_for_its_parts_are_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "MOST_SET_ASIDE_BYTES", 3 * SIZE)
    ours, theirs = os.pipe()
    try:
        part = shared(Kind.PART, 1)
        talk = talking([*(shared(Kind.INFER, request) for request in range(2, 7)), part], theirs)
        assert talk.next_frame(1) is part
        refused = Decoder(preamble=False).feed(os.read(ours, 65536))
        assert [(frame.kind, frame.request, frame.fields()["kind"]) for frame in refused] == [
            (Kind.ERROR, 5, "busy"),
            (Kind.ERROR, 6, "busy"),
        ]
        assert [frame.request for frame in talk.frames()] == [2, 3, 4]
        talk = talking([*(shared(Kind.INFER, request) for request in range(2, 5)), part], theirs)
        assert talk.next_frame(1) is part, "what was served counts no more"
        talk = talking([shared(Kind.RELEASE, request) for request in range(2, 20)], theirs)
        with pytest.raises(WireError, match="more were sent than were asked for"):
            talk.next_frame(1)
    finally:
        os.close(ours)
        os.close(theirs)
