"""Cancels that come between two steps of a request's way: none is lost, and each request is answered once."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from mer_worker.channel import Channel
from mer_worker.control import Ending, Pulse
from mer_worker.conversation import Conversation
from mer_worker.decoder import Decoder
from mer_worker.interrupts import Cancelled, Interrupts
from mer_worker.logs import Logs
from mer_worker.runners import load
from mer_worker.serving.batches import Batches
from mer_worker.serving.flights import Flight, Flights
from mer_worker.serving.threads import Threads
from mer_worker.tensors import encode
from mer_worker.wire import Frame, Kind


class Lock:
    """The lock that was there, and something that happens just after it was released for the first time."""

    def __init__(self, lock: threading.Lock, then: Callable[[], None]) -> None:
        self._lock = lock
        self._then: Callable[[], None] | None = then

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_error: object) -> None:
        self._lock.release()
        then, self._then = self._then, None
        if then is not None:
            then()


def infer(request: int, **inputs: object) -> Frame:
    [received] = Decoder(preamble=False).feed(b"".join(map(bytes, encode(inputs).message(Kind.INFER, request))))
    return received


@contextmanager
def conversation() -> Iterator[tuple[Conversation, Callable[[], list[Frame]]]]:
    """Give a worker's conversation, and what reads the frames that it has sent."""
    source, sink = os.pipe()
    os.set_blocking(source, False)
    channel, interrupts = Channel(sink), Interrupts()

    def sent() -> list[Frame]:
        return list(Decoder(preamble=False).feed(os.read(source, 1 << 16)))

    try:
        yield Conversation(channel, interrupts, Pulse(), Logs(channel, interrupts), Ending("", "")), sent
    finally:
        os.close(source)
        os.close(sink)


def test_a_request_that_is_cancelled_as_its_turn_comes_is_answered() -> None:
    dropped: list[int] = []
    flights = Flights(dropped.append, lambda _flight, _flags: ())
    flight = flights.add(infer(1))
    assert flight is not None
    began: list[bool] = []
    flights._lock = Lock(flights._lock, lambda: began.append(flights.begin(flight)))  # type: ignore[assignment]
    flights.cancel(1)
    assert (began, dropped) == ([False], [1])


def test_a_cancel_that_comes_as_the_handler_is_called_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    with conversation() as (spoken, _sent):
        threads = Threads(object(), spoken, 1)  # type: ignore[arg-type]  # no handler is called
        flight = threads._flights.add(infer(1))
        assert flight is not None
        assert threads._flights.begin(flight)
        arm = threads._flights.arm

        def arm_and_cancel(flight: Flight, stop: Callable[[Flight], None]) -> None:
            arm(flight, stop)
            threads._flights.cancel(1)

        monkeypatch.setattr(threads._flights, "arm", arm_and_cancel)
        with pytest.raises(Cancelled):
            threads._begin(flight)


@pytest.fixture
def batches(tmp_path, monkeypatch):  # type: ignore[no-untyped-def]
    (tmp_path / "handler.py").write_text(
        "ran = []\n"
        "def load():\n"
        "    def handle(batch):\n"
        "        ran.append(len(batch))\n"
        "        return [{'ran': list(ran)} for _ in batch]\n"
        "    return handle\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "handler", raising=False)
    options = {"entrypoint_package": "handler", "entrypoint_fn": "load"}
    with conversation() as (spoken, sent):
        runner = load({"runner": "python", "folder": str(tmp_path), "options": options, "arrays": "buffer"})
        yield Batches(runner, spoken), spoken, sent  # type: ignore[arg-type]
    sys.modules.pop("handler", None)


def test_a_lone_item_that_was_cancelled_before_it_came_is_not_run(batches) -> None:  # type: ignore[no-untyped-def]
    serving, spoken, sent = batches
    spoken.interrupts.cancel(1)
    serving.infer(infer(1))
    [answer] = sent()
    assert (answer.kind, answer.fields().get("code")) == (Kind.ERROR, "cancelled")
    assert sys.modules["handler"].ran == []


def test_an_item_that_is_cancelled_as_its_batch_begins_leaves_the_conversation_whole(batches) -> None:  # type: ignore[no-untyped-def]
    serving, spoken, sent = batches
    serving._lock = Lock(serving._lock, lambda: spoken.interrupts.cancel(1))
    serving._take([infer(1), infer(2)])
    cancelled, answered = sent()
    assert (cancelled.request, cancelled.kind) == (1, Kind.ERROR)
    assert (answered.request, answered.kind) == (2, Kind.RESULT)
